"""The order of the stages: checkpoint -> profile -> plan -> file, whole or one stage at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luq_gguf.calibration.stage import make_profile
from luq_gguf.core import atomic
from luq_gguf.core.agreement import Agreement
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import CalibrationError, RunFolderError, ToolsError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.plan_quality import UniformBaseline
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.core.sweeps import Sweep
from luq_gguf.core.types import Plan, Profile, QuantizedModel, RunOptions
from luq_gguf.diagnostics import verify
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.hf import datasets
from luq_gguf.llamacpp import quantize, tools
from luq_gguf.method import tensor_types, two_type_plan
from luq_gguf.planning import edited, rules, uniform_baseline, unprofiled, variants
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning.meter import make_meter
from luq_gguf.planning.ordered import save_plan
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.publishing import card
from luq_gguf.publishing import upload as publication
from luq_gguf.publishing.access import Target
from luq_gguf.publishing.upload import Upload
from luq_gguf.quantization.stage import check_slices, drop_f16, make_f16, make_file, mmproj_name
from luq_gguf.reporting.plan_text import better_line
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import claim
from luq_gguf.run.session import Session, load_spec_for_profile, open_planned, open_session
from luq_gguf.workflows import against, pictures, profiled_runs
from luq_gguf.workflows import sweep as sweep_workflow
from luq_gguf.workflows.calibration_mix import CalibrationMixRequest, measure_mixes
from luq_gguf.workflows.calibration_mix import check as check_mix


@dataclass(frozen=True)
class Conversion:
    """What `convert` made."""

    run_dir: Path
    model: QuantizedModel
    mmproj: Path | None
    plan: Plan
    profile: Profile | None  # of a GGUF file there may be none
    uniform_baseline: UniformBaseline | None = None
    upload: Upload | None = None
    agreement: Agreement | None = None
    pictures: ShownPictures = field(default_factory=ShownPictures)

    @property
    def better(self) -> str | None:
        """Return a sentence where another file at the same size is measured, or predicted, to be better."""
        return better_line(self.plan) or uniform_baseline.line(self.uniform_baseline)

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
            **({"upload": self.upload.to_json()} if self.upload else {}),
            **({"image_tokens": self.pictures.limits.to_json()} if self.pictures.limits else {}),
            **({"against": self.agreement.to_json()} if self.agreement else {}),
        }


def convert(
    model: str,
    out: Path,
    plan_request: PlanRequest,
    calibration: CalibrationSet,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    target: Target | None = None,
    base_model: str | None = None,
    check: bool = False,
) -> Conversion:
    """Run all stages, resuming at the first one whose inputs changed, and publish the result where a target is given.
    With `check`, the 16-bit file is compared with the checkpoint in transformers; in slices, the file that was written.

    What has to be measured for the plan is measured on the calibration's questions where the request names none.
    """
    check_slices(options, measures=plan_request.measures)
    if target:
        publication.check(target, base_model)  # hours before it is needed
    converted = _convert(model, out, plan_request, calibration, options, reporter, base_model, check=check)
    if not target:
        return converted
    published = publication.upload(out, target, base_model=base_model, reporter=reporter)
    return replace(converted, upload=published)


def _convert(
    model: str,
    out: Path,
    plan_request: PlanRequest,
    calibration: CalibrationSet,
    options: RunOptions,
    reporter: Reporter,
    base_model: str | None,
    *,
    check: bool,
) -> Conversion:
    if plan_request.questions.source is None:
        if plan_request.measures and calibration.images:
            reporter.info("files are measured on questions of --calib, as there is no --eval")
        plan_request = replace(plan_request, questions=replace(plan_request.questions, source=calibration.images))
    given = profiled_runs.given(plan_request.imatrix)
    with RunFolder(out, create=True, overwrite=options.overwrite) as run:
        claim(run, model, overwrite=options.overwrite, subfolder=options.subfolder)
        if base_model and run.read().get("base_model") != base_model:
            run.update(base_model=base_model, licence=dict(card.read_base_card(base_model, None).licence))
        dataset = datasets.source_name(calibration.sources[0] or datasets.DEFAULT_IMAGES)
        session = open_session(
            run, model, options, reporter, low=plan_request.low, high=plan_request.high, dataset=dataset, given=given
        )
        session = rules.obeying(session, plan_request.rules)
        prepared = planning_stage.prepare(session, plan_request)
        largest = two_type_plan.file_bytes(session.spec.tensors, ())
        check_disk(session, largest, needs_f16=plan_request.measures)
        profiled_runs.store(session)
        profile = make_profile(session, calibration)
        session = session.with_dataset(profile)
        plan = planning_stage.make(session, profile, prepared)
        baseline = None if plan_request.measures or options.low_disk else uniform_baseline.estimate(session, plan)
        return _converted(session, profile, plan, baseline, check=check)


def _converted(
    session: Session,
    profile: Profile | None,
    plan: Plan,
    baseline: UniformBaseline | None = None,
    *,
    check: bool = False,
) -> Conversion:
    """Quantize as planned."""
    needs_f16 = check and not session.options.low_disk
    run, made = session.run, make_file(session, plan, needs_f16=needs_f16)
    name = mmproj_name(session.spec)
    vision = run.file(name) if name else None
    _check_loads(session, made, vision)
    agreement = None
    if check:
        compared = make_f16(session) if needs_f16 else made.path
        checkpoint, options, reporter = session.spec.checkpoint, session.options, session.reporter
        agreement = against.check_written(compared, vision, checkpoint, run, options, reporter)
        if needs_f16 and not session.options.keep_f16:
            drop_f16(session)
    shown = pictures.shown_of(session, made.path, vision)
    return Conversion(run.path, made, vision, plan, profile, baseline, agreement=agreement, pictures=shown)


def _check_loads(session: Session, made: QuantizedModel, vision: Path | None) -> None:
    """Load what was written once in the pinned llama.cpp, unless these files have been."""
    try:
        build = tools.pinned_build()
    except ToolsError:
        session.reporter.info("the files were not loaded to check them: the pinned llama.cpp has not been built")
        return
    facts = session.run.outputs("mmproj").values() if vision else ()
    key = hash_of(made.sha256, [fact["sha256"] for fact in facts], build.name)
    session.run.run_stage("check", key, [], lambda: verify.check_runs(made.path, vision, session.options.threads))


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
    """Run the plan stage alone, in a profiled run folder, or in a new one for the GGUF file `model`."""
    given = profiled_runs.given(plan_request.imatrix)
    with profiled_runs.run_folder(run_dir, model) as run:
        types = {"low": plan_request.low, "high": plan_request.high}
        session, profiled = profiled_runs.open_run(run, model, options, reporter, **types, given=given)
        session = rules.obeying(session, plan_request.rules)
        prepared = planning_stage.prepare(session, plan_request, profiled=profiled is not None)
        profiled_runs.store(session)
        return planning_stage.make(session, profiled, prepared)


def quantize_plan(
    run_dir: Path,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    model: str | None = None,
    imatrix: Path | None = None,
    obeyed: PlanRules = PlanRules(),
) -> Conversion:
    """Run the quantize stage alone, with plan.json as it is, even if somebody has edited it: what else it says
    follows the types then. Importance from another publisher's file, `imatrix`, takes the place of the plan's. Types
    that rules forbid (`obeyed`) are replaced in the plan."""
    check_slices(options)
    given = profiled_runs.given(imatrix)
    with profiled_runs.run_folder(run_dir, model) as run:
        profiled = profiled_runs.profile_of(run, model)
        session, planned = open_planned(run, model, options, reporter, given=given)
        session = session.with_dataset(profiled) if profiled else session
        spec = session.spec
        if not set(planned.low_layers) <= set(range(spec.tensors.n_layers)):
            raise RunFolderError(
                f"plan.json names low layers that {spec.checkpoint.name} does not have: it has layers 0 to "
                f"{spec.tensors.n_layers - 1}.",
                "Run luq-gguf plan again.",
            )
        before, planned = planned, edited.checked(session, planned)
        profiled_runs.store(session)
        if given or spec.given_facts != planned.imatrix:
            planned = variants.with_imatrix(spec, planned)
        planned = edited.obeying(session, planned, obeyed) if obeyed else planned
        if planned != before:
            save_plan(session, planned)
        overrides = quantize.overrides(session.spec.source, planned)
        atomic.write_text(run.file("tensor-types.txt"), tensor_types.to_text(overrides))
        check_disk(session, planned.predicted_file_bytes)
        return _converted(session, profiled, planned)


def sweep(
    run_dir: Path,
    request: sweep_workflow.SweepRequest,
    questions: QuestionSet,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
    *,
    mix_request: CalibrationMixRequest | None = None,
    model: str | None = None,
    imatrix: Path | None = None,
) -> Sweep:
    """Measure many choices of low layers of a profiled run folder's model, or of the GGUF file `model`; with
    `mix_request`, also what alpha does. Importance is that of another publisher's file, `imatrix`, where it is given.
    """
    given = profiled_runs.given(imatrix)
    with profiled_runs.run_folder(run_dir, model) as run:
        types = {"low": request.low, "high": request.high}
        session, profiled = profiled_runs.open_run(run, model, options, reporter, **types, given=given)
        if profiled is None:
            request = replace(request, orders=unprofiled.sweepable(session, request.orders))
        if mix_request and (session.spec.file or given or profiled is None):
            raise CalibrationError(
                "--alpha profiles the model again and compares its importance, which needs the checkpoint.",
                "Leave --alpha out, or give --model the checkpoint, without --imatrix.",
            )
        if mix_request and profiled:
            check_mix(session, profiled, mix_request)
        profiled_runs.store(session)
        meter = make_meter(session, questions)()
        swept = sweep_workflow.sweep(session, profiled, meter, request)
        if "best" in request.orders:
            swept = planning_stage.add_best_points(session, profiled, meter, swept)
        if mix_request and profiled:
            swept = replace(swept, alpha=measure_mixes(session, profiled, meter, mix_request))
        return swept
