"""The order of the stages: checkpoint -> profile -> plan -> file, whole or one stage at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luq_gguf.calibration.stage import CalibrationRequest, make_profile
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.reporter import Listener
from luq_gguf.core.types import Plan, Profile, QuantizedModel
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.benchmarks import run as benchmarks
from luq_gguf.evaluation.logprobs import Target
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.hf import datasets
from luq_gguf.llamacpp import quantize
from luq_gguf.llamacpp.gguf import header_only, imatrix, reader
from luq_gguf.method import tensor_types, two_type_plan
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning import uniform_baseline
from luq_gguf.planning.meter import make_meter
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.quantization.stage import make_file, mmproj_name
from luq_gguf.reporting.plan_text import better_line
from luq_gguf.run import serialization
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import claim, model_of, open_door, open_for_profile, planned_door, with_dataset
from luq_gguf.workflows import sweep as sweep_workflow
from luq_gguf.workflows.calibration_mix import AlphaRequest, ablate
from luq_gguf.workflows.calibration_mix import check as check_alpha


@dataclass(frozen=True)
class Converted:
    """What `convert` made."""

    run_dir: Path
    model: QuantizedModel
    mmproj: Path | None
    plan: Plan
    profile: Profile
    foreseen: Mapping[str, Any] | None = None

    @property
    def better(self) -> str | None:
        """One sentence where another file of no more bytes is measured, or predicted, to be better."""
        return better_line(self.plan) or uniform_baseline.line(self.foreseen)

    def to_json(self) -> dict[str, Any]:
        return {
            "run_dir": str(self.run_dir),
            "model": str(self.model.path),
            "mmproj": str(self.mmproj) if self.mmproj else None,
            "low_layers": list(self.plan.low_layers),
            "n_bytes": self.model.n_bytes,
            "bpw": self.plan.bpw,
            "predicted_bytes": self.plan.predicted_bytes,
            "predicted_file_bytes": self.plan.predicted_file_bytes,
            "sha256": self.model.sha256,
            "better": self.better,
            "foreseen": dict(self.foreseen) if self.foreseen else None,
        }


def convert(
    model: str,
    out: Path,
    wanted: PlanRequest,
    request: CalibrationRequest,
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    device: str = "auto",
    keep_f16: bool = False,
    low_disk: bool = False,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    allow_fallback: bool = False,
    listener: Listener = Listener(),
) -> Converted:
    """The whole road, resuming at the first stage whose inputs changed.

    What has to be measured for the plan is measured on the calibration's questions where the request names none.
    """
    threads = wanted.threads
    if wanted.questions.source is None:
        wanted = replace(wanted, questions=replace(wanted.questions, source=request.images))
    with RunFolder(out, create=True, overwrite=overwrite) as run:
        claim(run, model, overwrite=overwrite)
        dataset = datasets.source_name(request.images or datasets.DEFAULT_IMAGES)
        door = open_door(
            run,
            model,
            low=low,
            high=high,
            trust_remote_code=trust_remote_code,
            allow_fallback=allow_fallback,
            dataset=dataset,
            listener=listener,
        )
        prepared = planning_stage.prepare(run, door, wanted, listener)
        could_be = not (low_disk or keep_f16 or wanted.measures)  # these need the 16-bit file
        check_disk(run, door, two_type_plan.file_bytes(door.tensors, ()), in_slices=low_disk, could_be=could_be)
        profile = make_profile(run, door, request, device=device, listener=listener)
        door = with_dataset(door, profile)
        plan = planning_stage.make(run, door, profile, wanted, prepared, listener)
        beside = None if wanted.measures or low_disk else uniform_baseline.foresee(run, door, plan, listener)
        made = make_file(run, door, plan, threads=threads, keep_f16=keep_f16, in_slices=low_disk, listener=listener)
        name = mmproj_name(door.checkpoint)
        return Converted(run.path, made, run.file(name) if name else None, plan, profile, beside)


def profile(
    model: str,
    out: Path,
    request: CalibrationRequest,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    listener: Listener = Listener(),
) -> Profile:
    """The profile stage alone."""
    with RunFolder(out, create=True, overwrite=overwrite) as run:
        door = open_for_profile(run, model, trust_remote_code=trust_remote_code, overwrite=overwrite, listener=listener)
        return make_profile(run, door, request, device=device, listener=listener)


def plan(
    run_dir: Path,
    wanted: PlanRequest,
    *,
    low: str,
    high: str,
    model: str | None = None,
    trust_remote_code: bool = False,
    allow_fallback: bool = False,
    listener: Listener = Listener(),
) -> Plan:
    """The plan stage alone, on a profiled run folder."""
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        where = model or model_of(run)
        door = open_door(
            run,
            where,
            low=low,
            high=high,
            trust_remote_code=trust_remote_code,
            allow_fallback=allow_fallback,
            listener=listener,
        )
        prepared, door = planning_stage.prepare(run, door, wanted, listener), with_dataset(door, profiled)
        return planning_stage.make(run, door, profiled, wanted, prepared, listener)


def quantize_plan(
    run_dir: Path,
    *,
    threads: int | None = None,
    keep_f16: bool = False,
    low_disk: bool = False,
    model: str | None = None,
    trust_remote_code: bool = False,
    listener: Listener = Listener(),
) -> Converted:
    """The quantize stage alone: plan.json as it stands, also where a person has edited it."""
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        door, planned = planned_door(run, model, listener, trust_remote_code=trust_remote_code)
        wrong = set(planned.tensor_types) ^ {t.name for t in door.source.tensors}
        if wrong:
            raise RunFolderError(
                f"plan.json and {door.checkpoint.name} disagree on the tensor {min(wrong)}.", "Run luq-gguf plan again."
            )
        _check_importance(run, planned)
        part = run.file("tensor-types.txt.part")
        part.write_text(tensor_types.to_text(quantize.overrides(door.source, planned)))
        part.replace(run.file("tensor-types.txt"))
        could_be = not (low_disk or keep_f16)
        check_disk(run, door, planned.predicted_file_bytes, in_slices=low_disk, could_be=could_be)
        made = make_file(run, door, planned, threads=threads, keep_f16=keep_f16, in_slices=low_disk, listener=listener)
        name = mmproj_name(door.checkpoint)
        return Converted(run.path, made, run.file(name) if name else None, planned, profiled)


def _check_importance(run: RunFolder, planned: Plan) -> None:
    """A person may have edited the plan or brought another imatrix: llama-quantize would fail in mid-run."""
    known = imatrix.read(run.file(header_only.IMATRIX_NAME)).in_sum2
    for name, kind in planned.tensor_types.items():
        if name not in known and reader.needs_importance(name, kind, planned.high):
            raise RunFolderError(
                f"plan.json gives {name} the type {kind}, which needs an importance entry; imatrix.gguf has none.",
                "Choose another type for it, such as Q2_K, or run luq-gguf plan again.",
            )


def evaluate(
    file: Path,
    reference: Path | None,
    questions: QuestionSet,
    *,
    mmproj: Path | None = None,
    threads: int | None = None,
    benchmark: benchmarks.BenchmarkRequest | None = None,
    listener: Listener = Listener(),
) -> dict[str, Any]:
    """Measure a file; in a run folder the result is added to its eval.json."""
    if benchmark:
        benchmarks.check(benchmark)
        half = evaluation.mmproj_beside(file, mmproj, "The benchmarks have")
    in_run = (file.parent / "run.json").is_file()
    with RunFolder(file.parent) if in_run else nullcontext() as run:
        work = run.work / "eval" if run else evaluation.cache_folder()
        alone = benchmark and not (questions.source or questions.text)
        data = evaluation.no_data(reference) if alone else questions.read(file, work / "images")
        vision = evaluation.find_mmproj(file, mmproj, data.samples)
        target = Target(file, vision, threads, questions.n_ctx, max_tokens=questions.max_tokens)
        against = replace(target, model=reference) if reference else None
        found = evaluation.evaluate(target, against, data, work, metric=questions.metric, listener=listener)
        content = found.content | {"benchmarks": None}
        if benchmark:
            asked = Target(file, half, threads, questions.n_ctx)  # another --max-tokens asks benchmarks nothing else
            content["benchmarks"] = benchmarks.measure(benchmark, asked, work, listener)
            content["conditions"]["benchmarks"] = benchmarks.conditions(benchmark, asked)
        if run:
            serialization.add_eval(run.file("eval.json"), content)
    return content


def sweep(
    run_dir: Path,
    request: sweep_workflow.SweepRequest,
    questions: QuestionSet,
    *,
    low: str,
    high: str,
    alphas: tuple[float, ...] = (),
    alpha_layers: tuple[int, ...] | None = None,
    calibration: CalibrationRequest = CalibrationRequest(),
    device: str = "auto",
    threads: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
    allow_fallback: bool = False,
    listener: Listener = Listener(),
) -> dict[str, Any]:
    """Measure many choices of low layers of a profiled run folder's model; with `alphas`, also what alpha does.

    `calibration` is only read for those, and has to be what the run was profiled with.
    """
    with RunFolder(run_dir) as run:
        profiled = serialization.read_profile(run.file("profile.json"))
        where = model or model_of(run)
        door = open_door(
            run,
            where,
            low=low,
            high=high,
            trust_remote_code=trust_remote_code,
            allow_fallback=allow_fallback,
            listener=listener,
        )
        ablation = AlphaRequest(alphas, alpha_layers, calibration) if alphas else None
        if ablation:
            check_alpha(run, door, profiled, ablation)
        meter = make_meter(run, door, questions, threads, listener)()
        found = sweep_workflow.sweep(run, door, profiled, meter, request, listener)
        if "best" in request.orders:
            found = planning_stage.add_best_points(run, door, profiled, meter, found, listener)
        if ablation:
            found |= {"alpha": ablate(run, door, profiled, meter, ablation, device, listener)}
        return found
