"""Makes plans that take layers in an order until a budget is met, and writes a plan's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from luq_gguf.benchmarking.predict import Predictor, tps_of
from luq_gguf.core import atomic
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.types import Budget, Plan, Profile
from luq_gguf.llamacpp import quantize
from luq_gguf.method import orders, ranking, tensor_types, two_type_plan
from luq_gguf.planning import unprofiled
from luq_gguf.run import model_files, serialization
from luq_gguf.run.session import Session

PLAN_FILES = ("plan.json", "tensor-types.txt")


def ordered_plan(
    session: Session,
    profile: Profile | None,
    budget: Budget,
    *,
    rule: str = "entropy",
    seed: int = 0,
    order: Sequence[int] | None = None,
    measured: Mapping[str, object] | None = None,
    predictor: Predictor | None = None,
) -> Plan:
    """Return the plan that takes layers in an order until the budget is met. Raises RunFolderError and BudgetError.

    `predictor` is needed for a budget of speed. `order` is given where the rule needs more than the entropies of the
    `profile`; `measured` is added to the plan's budget.
    """
    spec = session.spec
    if profile and len(profile.layers) != spec.tensors.n_layers:
        raise RunFolderError(
            f"profile.json is from a model with {len(profile.layers)} layers, but {spec.checkpoint.name} has "
            f"{spec.tensors.n_layers}.",
            "Run luq-gguf profile again.",
        )
    layers, rankings = unprofiled.layers_of(spec, profile), profile.rankings if profile else {}
    ranked = order if order is not None else orders.rank(layers, rule, seed)
    sign = orders.ORDERS[rule].sign if rule in orders.ORDERS else 0
    ties = ranking.near_ties(layers, two_type_plan.may_be_low(spec.tensors, ranked)) if sign else ()
    plan = two_type_plan.make_plan(spec.tensors, ranked, budget, rule, ties, tps_of(predictor))
    doubtful = ranking.unsettled(rankings, len(plan.low_layers), sign, spec.tensors.kept)
    return replace(plan, unsettled=doubtful, budget={**plan.budget, **(measured or {})}, imatrix=spec.given_facts)


def save_plan(session: Session, plan: Plan, predictor: Predictor | None = None) -> Plan:
    """Write plan.json and tensor-types.txt, and return the plan. `predictor` adds the predicted speed."""
    run = session.run
    if predictor:
        plan = replace(plan, speed=predictor.of(plan))

    def make() -> None:
        serialization.write_json(run.file("plan.json"), plan.to_json())
        overrides = quantize.overrides(session.spec.source, plan)
        atomic.write_text(run.file("tensor-types.txt"), tensor_types.to_text(overrides))

    model_files.adopt(run)
    run.run_stage("plan", hash_of(plan.to_json()), PLAN_FILES, make)
    return plan
