"""One stage of the road at a time: profile, plan, quantize, eval, sweep."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from luq_gguf.calibration.stage import make_profile
from luq_gguf.core import atomic
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.measurements import EvalResult
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.sweeps import Sweep
from luq_gguf.core.types import Plan, Profile, RunOptions
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation import fitting
from luq_gguf.evaluation.benchmarks import run as benchmarks
from luq_gguf.evaluation.logprobs import EvalTarget
from luq_gguf.evaluation.questions import QuestionSet, shared_with_calibration
from luq_gguf.hf.checkpoint import Checkpoint, open_checkpoint
from luq_gguf.llamacpp import gpu, quantize
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.method import tensor_types
from luq_gguf.planning import edited, rules, variants
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning.meter import make_meter
from luq_gguf.planning.ordered import save_plan
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.quantization.stage import check_slices
from luq_gguf.run import serialization
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import model_of
from luq_gguf.run.session import load_spec_for_profile, open_planned, open_session
from luq_gguf.workflows import eval_against
from luq_gguf.workflows import sweep as sweep_workflow
from luq_gguf.workflows.calibration_mix import CalibrationMixRequest, measure_mixes
from luq_gguf.workflows.calibration_mix import check as check_mix
from luq_gguf.workflows.convert import Conversion, load_imatrix, quantized, store_imatrix


def profile(
    model: str,
    out: Path,
    calibration: CalibrationSet,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> Profile:
    """Run the profile stage alone."""
    with RunFolder(out, create=True, overwrite=options.overwrite) as run:
        return make_profile(load_spec_for_profile(run, model, options, reporter), calibration)


def plan(
    run_dir: Path,
    plan_request: PlanRequest,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    model: str | None = None,
) -> Plan:
    """Run the plan stage alone, in a profiled run folder."""
    given = load_imatrix(plan_request.imatrix)
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        where = model or model_of(run)
        types = {"low": plan_request.low, "high": plan_request.high}
        session = open_session(run, where, options, reporter, **types, given=given)
        session = rules.obeying(session, plan_request.rules)
        prepared = planning_stage.prepare(session, plan_request)
        store_imatrix(session)
        return planning_stage.make(session.with_dataset(profiled), profiled, prepared)


def quantize_plan(
    run_dir: Path,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    model: str | None = None,
    imatrix: Path | None = None,
) -> Conversion:
    """Run the quantize stage alone, with plan.json as it is, even if somebody has edited it: what else it says
    follows the types then. Importance from another publisher's file, `imatrix`, takes the place of the plan's."""
    check_slices(options)
    given = load_imatrix(imatrix)
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        session, planned = open_planned(run, model, options, reporter, given=given)
        session = session.with_dataset(profiled)
        spec = session.spec
        if not set(planned.low_layers) <= set(range(spec.tensors.n_layers)):
            raise RunFolderError(
                f"plan.json names low layers that {spec.checkpoint.name} does not have: it has layers 0 to "
                f"{spec.tensors.n_layers - 1}.",
                "Run luq-gguf plan again.",
            )
        before, planned = planned, edited.checked(session, planned)
        if given:
            store_imatrix(session)
            planned = variants.with_imatrix(spec, planned)
        if planned != before:
            save_plan(session, planned)
        overrides = quantize.overrides(session.spec.source, planned)
        atomic.write_text(run.file("tensor-types.txt"), tensor_types.to_text(overrides))
        check_disk(session, planned.predicted_file_bytes)
        return quantized(session, profiled, planned)


def evaluate(
    file: Path,
    reference: Path | None,
    questions: QuestionSet,
    *,
    mmproj: Path | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    benchmark: benchmarks.BenchmarkRequest | None = None,
    fit_images: bool = False,
    model: str | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> EvalResult:
    """Measure a file; in a run folder the result is added to its eval.json. Any shard of a file stands for it.

    With `fit_images`, the questions' pictures are fitted first for the processor of the checkpoint `model`, or of the
    run folder's. Where `model` is given, it is asked the same questions in transformers.
    """
    checkpoint = _reference_model(model, options) if model else None
    file, reference = shards.files_of(file)[0], shards.files_of(reference)[0] if reference else None
    offload = gpu.callable_offload(gpu_layers)
    if benchmark:
        benchmarks.check(benchmark)
        half = evaluation.mmproj_beside(file, mmproj, "The benchmarks have")
    in_run = (file.parent / "run.json").is_file()
    with RunFolder(file.parent) if in_run else nullcontext() as run:
        work = run.work / "eval" if run else evaluation.cache_folder(reporter.info)
        alone = benchmark and not (questions.source or questions.text)
        data = evaluation.no_data(reference) if alone else questions.read(file, work / "images")
        vision = evaluation.find_mmproj(file, mmproj, data.samples)
        fitted = None
        if fit_images:
            theirs = checkpoint or fitting.checkpoint_of(file, run)
            fitted = fitting.fit(data, theirs, file, vision, work / "fitted", reporter)
        plain = EvalTarget(file, vision, threads, questions.n_ctx, max_tokens=questions.max_tokens, gpu=offload)
        asked, target = (fitted.data, fitted.of(plain)) if fitted else (data, plain)
        wide = replace(target, model=reference) if reference else None
        metric = questions.metric
        found = evaluation.evaluate(target, wide, asked, work, metric=metric, reporter=reporter, check=True)
        result = replace(found.result, benchmarks=None)
        if fitted:
            result = replace(result, conditions=fitted.told(result.conditions))
        if checkpoint:
            files = eval_against.files_of(checkpoint, plain, reference, data, fitted, work, reporter)
            compared = eval_against.compare(checkpoint, files, data, metric, work, options, reporter)
            result = replace(result, against=compared)
        if benchmark:
            if fitted:
                reporter.info("--fit-images fits the pictures of --data; the benchmarks' pictures stay as they are")
            benchmark_target = EvalTarget(
                file, half, threads, questions.n_ctx, gpu=offload
            )  # another --max-tokens asks benchmarks nothing else
            measured = benchmarks.measure(benchmark, benchmark_target, work, reporter)
            conditions = replace(result.conditions, benchmarks=benchmarks.conditions(benchmark, benchmark_target))
            result = replace(result, benchmarks=measured, conditions=conditions)
        if run:
            shared = shared_with_calibration(run, data.samples)
            result = replace(result, conditions=replace(result.conditions, **vars(shared)))
            if caveat := shared.overlap(len(data.samples)):
                reporter.info(caveat)
            serialization.add_eval(run.file("eval.json"), result)
    return result


def _reference_model(model: str, options: RunOptions) -> Checkpoint:
    return open_checkpoint(model, trust_remote_code=options.trust_remote_code, subfolder=options.subfolder)


def sweep(
    run_dir: Path,
    request: sweep_workflow.SweepRequest,
    questions: QuestionSet,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    mix_request: CalibrationMixRequest | None = None,
    model: str | None = None,
) -> Sweep:
    """Measure many choices of low layers of a profiled run folder's model; with `mix_request`, also what alpha does."""
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        where = model or model_of(run)
        session = open_session(run, where, options, reporter, low=request.low, high=request.high)
        if mix_request:
            check_mix(session, profiled, mix_request)
        meter = make_meter(session, questions)()
        swept = sweep_workflow.sweep(session, profiled, meter, request)
        if "best" in request.orders:
            swept = planning_stage.add_best_points(session, profiled, meter, swept)
        if mix_request:
            swept = replace(swept, alpha=measure_mixes(session, profiled, meter, mix_request))
        return swept
