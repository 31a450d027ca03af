"""One stage of the road at a time: profile, plan, quantize, sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from luq_gguf.calibration.stage import make_profile
from luq_gguf.core import atomic
from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import CalibrationError, RunFolderError
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.sweeps import Sweep
from luq_gguf.core.types import Plan, Profile, RunOptions
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.llamacpp import quantize
from luq_gguf.method import tensor_types
from luq_gguf.planning import edited, rules, unprofiled, variants
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning.meter import make_meter
from luq_gguf.planning.ordered import save_plan
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.quantization.stage import check_slices
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import load_spec_for_profile, open_planned
from luq_gguf.workflows import profiled_runs
from luq_gguf.workflows import sweep as sweep_workflow
from luq_gguf.workflows.calibration_mix import CalibrationMixRequest, measure_mixes
from luq_gguf.workflows.calibration_mix import check as check_mix
from luq_gguf.workflows.convert import Conversion, quantized


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
        return quantized(session, profiled, planned)


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
        meter = make_meter(session, questions, with_splits=True)()
        swept = sweep_workflow.sweep(session, profiled, meter, request)
        if "best" in request.orders:
            swept = planning_stage.add_best_points(session, profiled, meter, swept)
        if mix_request and profiled:
            swept = replace(swept, alpha=measure_mixes(session, profiled, meter, mix_request))
        return swept
