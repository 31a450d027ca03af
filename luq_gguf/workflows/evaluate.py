"""`eval`: one file, measured on questions, text or benchmarks, in its run folder or by itself; or all of a folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from luq_gguf.core.measurements import EvalResult
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import RunOptions
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation import fitting
from luq_gguf.evaluation.benchmarks import run as benchmarks
from luq_gguf.evaluation.questions import QuestionSet, shared_with_calibration
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.hf.checkpoint import Checkpoint, open_checkpoint
from luq_gguf.llamacpp import gpu
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.workflows import eval_against


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


def evaluate_run(
    run_dir: Path,
    questions: QuestionSet,
    *,
    threads: int | None = None,
    gpu_layers: int | None = None,
    fit_images: bool = False,
    model: str | None = None,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> tuple[EvalResult, ...]:
    """Measure all model files of a run folder on the same questions against its 16-bit file; that and the file of the
    high ftype are made where they are missing."""
    (f16, *files), half = quantization_stage.compared_files(run_dir, options, reporter)
    return tuple(
        evaluate(
            file, f16, questions, mmproj=half, threads=threads, gpu_layers=gpu_layers, fit_images=fit_images,
            model=model, options=options, reporter=reporter,
        )
        for file in files
    )  # fmt: skip


def _reference_model(model: str, options: RunOptions) -> Checkpoint:
    return open_checkpoint(model, trust_remote_code=options.trust_remote_code, subfolder=options.subfolder)
