"""`convert`: from a checkpoint to files of one or of several sizes, which share the profile and the 16-bit file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luq_gguf.calibration.stage import make_profile
from luq_gguf.core import machine
from luq_gguf.core.agreement import Agreement
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import BudgetError, ToolsError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.plan_quality import UniformBaseline
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.core.types import Plan, Profile, QuantizedModel, RunOptions
from luq_gguf.core.units import format_seconds
from luq_gguf.diagnostics import verify
from luq_gguf.hf import datasets
from luq_gguf.llamacpp import tools
from luq_gguf.method import two_type_plan
from luq_gguf.planning import rules, uniform_baseline, variants
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning.stage import PlanInputs, PlanRequest
from luq_gguf.publishing import card
from luq_gguf.publishing import upload as publication
from luq_gguf.publishing.access import Target
from luq_gguf.publishing.upload import Upload
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.quantization.stage import check_slices, drop_f16, make_f16, mmproj_name
from luq_gguf.reporting.plan_text import better_line
from luq_gguf.run import durations
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import claim
from luq_gguf.run.session import Session, open_session
from luq_gguf.workflows import against, expected_work, pictures, profiled_runs


@dataclass(frozen=True)
class MadeFile:
    """A model file, the plan that it was made by, and the estimate of llama-quantize's own file at its size."""

    model: QuantizedModel
    plan: Plan
    uniform_baseline: UniformBaseline | None = None

    @property
    def better(self) -> str | None:
        """Return a sentence where another file at the same size is measured, or predicted, to be better."""
        return better_line(self.plan) or uniform_baseline.line(self.uniform_baseline)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.model.path),
            "low_layers": list(self.plan.low_layers),
            "ranking": self.plan.ranking,
            "n_bytes": self.model.n_bytes,
            "bpw": self.plan.bpw,
            "predicted_bytes": self.plan.predicted_bytes,
            "predicted_file_bytes": self.plan.predicted_file_bytes,
            "sha256": self.model.sha256,
            "better": self.better,
        }


@dataclass(frozen=True)
class Conversion:
    """What `convert` made. `files` are all model files of this conversion in the order in which they were made;
    `model`, `plan` and `uniform_baseline` are of the last LUQ file among them."""

    run_dir: Path
    model: QuantizedModel
    mmproj: Path | None
    plan: Plan
    profile: Profile | None  # of a GGUF file there may be none
    uniform_baseline: UniformBaseline | None = None
    upload: Upload | None = None
    agreement: Agreement | None = None
    pictures: ShownPictures = field(default_factory=ShownPictures)
    files: tuple[MadeFile, ...] = ()

    @property
    def better(self) -> str | None:
        """Return a sentence where another file at the same size is measured, or predicted, to be better."""
        return MadeFile(self.model, self.plan, self.uniform_baseline).better

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
            "foreseen": self.uniform_baseline and self.uniform_baseline.to_json(),
            **({"files": [file.to_json() for file in self.files]} if len(self.files) > 1 else {}),
            **({"upload": self.upload.to_json()} if self.upload else {}),
            **({"image_tokens": self.pictures.limits.to_json()} if self.pictures.limits else {}),
            **({"against": self.agreement.to_json()} if self.agreement else {}),
        }


def convert(
    model: str,
    out: Path,
    plan_requests: PlanRequest | Sequence[PlanRequest],
    calibration: CalibrationSet,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    also: Sequence[str] = (),
    target: Target | None = None,
    base_model: str | None = None,
    check: bool = False,
) -> Conversion:
    """Run all stages, resuming at the first one whose inputs changed, and publish the result where a target is given.

    There is a file for each plan request, which differ in their budgets alone, and llama-quantize's own file of each
    file type in `also`. With `check`, the 16-bit file is compared with the checkpoint in transformers; in slices, the
    last file that was written. What has to be measured for a plan is measured on the calibration's questions where the
    request names none.
    """
    requests = (plan_requests,) if isinstance(plan_requests, PlanRequest) else tuple(plan_requests)
    if not requests:
        raise BudgetError("No budget was given.", "Give at least one.")
    check_slices(options, measures=requests[0].needs_f16)
    if target:
        publication.check(target, base_model)  # hours before it is needed
    converted = _convert(model, out, requests, calibration, options, reporter, base_model, also, check=check)
    if not target:
        return converted
    published = publication.upload(out, target, base_model=base_model, reporter=reporter)
    return replace(converted, upload=published)


def _convert(
    model: str,
    out: Path,
    requests: Sequence[PlanRequest],
    calibration: CalibrationSet,
    options: RunOptions,
    reporter: Reporter,
    base_model: str | None,
    also: Sequence[str],
    *,
    check: bool,
) -> Conversion:
    first = requests[0]
    if first.questions.source is None:
        if first.measures and calibration.images:
            reporter.info("files are measured on questions of --calib, as there is no --eval")
        questions = replace(first.questions, source=calibration.images)
        requests = [replace(request, questions=questions) for request in requests]
    given = profiled_runs.given(first.imatrix)
    with RunFolder(out, create=True, overwrite=options.overwrite) as run:
        claim(run, model, overwrite=options.overwrite, subfolder=options.subfolder)
        if base_model and run.read().get("base_model") != base_model:
            run.update(base_model=base_model, licence=dict(card.read_base_card(base_model, None).licence))
        dataset = datasets.source_name(calibration.sources[0] or datasets.DEFAULT_IMAGES)
        session = open_session(
            run, model, options, reporter, low=first.low, high=first.high, dataset=dataset, given=given
        )
        session = rules.obeying(session, first.rules)
        prepared = [planning_stage.prepare(session, request) for request in requests]
        stock_plans = [variants.stock_plan(session.spec, ftype) for ftype in dict.fromkeys(also)]
        largest = two_type_plan.file_bytes(session.spec.tensors, ())
        needed = len(requests) * largest + sum(plan.predicted_file_bytes for plan in stock_plans)
        check_disk(session, needed, needs_f16=first.needs_f16)
        is_new = not run.outputs("profile") and not run.outputs("quantize")
        work = expected_work.work(session, calibration, prepared, stock_plans)
        ahead = durations.expected(work, options.threads)
        if sentence := ahead.sentence():
            reporter.info(sentence)
        profiled_runs.store(session)
        profile = make_profile(session, calibration)
        session = session.with_dataset(profile)
        quantization_stage.forget_others(session)
        measures = first.measures or options.low_disk
        compared = [] if measures else [planning_stage.unmeasured(session, profile, inputs) for inputs in prepared]
        # llama.cpp's threads wait for each other in a busy loop: with another process on a core, loading takes seconds.
        threads = max(1, (options.threads or machine.cores()) - 1) if compared else options.threads
        stock = dict[Path, MadeFile]()
        with uniform_baseline.comparing(session, compared) as baselines:
            for stock_plan in stock_plans:
                made = quantization_stage.make_stock(session, stock_plan)
                _check_loads(session, made, threads)
                stock[made.path] = MadeFile(made, stock_plan)
            luq = [_planned_file(session, profile, inputs, threads) for inputs in prepared]
            if compared:
                luq = [replace(f, uniform_baseline=b) for f, b in zip(luq, baselines(), strict=True)]
        files = {file.model.path: file for file in luq}
        if len(files) < len(luq):
            reporter.info(f"{len(luq) - len(files)} of the budgets give the same file as another one")
        made_files = finished(session, profile, (*stock.values(), *files.values()), check=check)
        took = durations.spent(run.seconds)
        run.update(durations={"expected_seconds": ahead.to_json(), "seconds": took.to_json()})
        if took.total >= durations.SHORTEST:
            reporter.info(f"took {format_seconds(took.total)}: {took.listed()}")
        if is_new:
            durations.learn(work, took, options.threads)
        return made_files


def _planned_file(session: Session, profile: Profile, inputs: PlanInputs, threads: int | None) -> MadeFile:
    plan = planning_stage.make(session, profile, inputs)
    return MadeFile(_made(session, plan, threads), plan)


def quantized(session: Session, profile: Profile | None, plan: Plan) -> Conversion:
    """Quantize as planned."""
    return finished(session, profile, (MadeFile(_made(session, plan, session.options.threads), plan),), check=False)


def _made(session: Session, plan: Plan, threads: int | None) -> QuantizedModel:
    """Make a LUQ file, and load it with so many threads; the 16-bit file stays for others."""
    made = quantization_stage.make_file(session, plan, needs_f16=True)
    _check_loads(session, made, threads)
    return made


def finished(session: Session, profile: Profile | None, files: tuple[MadeFile, ...], *, check: bool) -> Conversion:
    """Return what was made; the 16-bit file is compared first, where that is asked for, and deleted unless it is to be
    kept."""
    checkpoint, options, reporter = session.spec.checkpoint, session.options, session.reporter
    run, last, agreement, vision = session.run, files[-1], None, _mmproj(session)
    if check:
        compared = last.model.path if options.low_disk else make_f16(session)
        agreement = against.check_written(compared, vision, checkpoint, run, options, reporter)
    if not options.keep_f16:
        drop_f16(session)
    shown = pictures.shown_of(session, last.model.path, vision)
    return Conversion(
        run.path, last.model, vision, last.plan, profile, last.uniform_baseline,
        agreement=agreement, pictures=shown, files=files,
    )  # fmt: skip


def _mmproj(session: Session) -> Path | None:
    name = mmproj_name(session.spec)
    return session.run.file(name) if name else None


def _check_loads(session: Session, made: QuantizedModel, threads: int | None) -> None:
    """Load what was written once in the pinned llama.cpp, unless these files have been."""
    vision = _mmproj(session)
    try:
        build = tools.pinned_build()
    except ToolsError:
        session.reporter.info("the files were not loaded to check them: the pinned llama.cpp has not been built")
        return
    facts = session.run.outputs("mmproj").values() if vision else ()
    key = hash_of(made.sha256, [fact["sha256"] for fact in facts], build.name)
    run, stages = session.run, ("check", f"check {made.path.name}")  # of the last file, and of each
    run.share_stage(stages[1], key, [])
    run.run_stage(stages[1], key, [], lambda: verify.check_runs(made.path, vision, threads))
    run.share_stage(stages[0], key, [])
