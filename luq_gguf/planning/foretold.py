"""What types are foretold to cost a model's matrices, for plans: with the types that a plan may choose from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from luq_gguf.calibration.foretelling import make_foretold
from luq_gguf.core.errors import BudgetError, CalibrationError, CheckpointError
from luq_gguf.core.types import Profile
from luq_gguf.method import fisher, orders, two_type_plan
from luq_gguf.planning import unprofiled
from luq_gguf.quantization.stage import make_f16
from luq_gguf.run.session import Session


def check(session: Session, rule: str, *, profiled: bool) -> None:
    """Raise BudgetError where an order cannot be foretold: of a GGUF file, or without a profile."""
    if session.spec.file or not profiled:
        raise BudgetError(
            f"The order {rule} needs gradients of the model, which a GGUF file does not give.",
            "Give --model the checkpoint, or choose another order.",
        )


def order(session: Session, profile: Profile | None, rule: str, seed: int) -> tuple[int, ...]:
    """Return all layers in one of the foretold orders. Raises what `costs_alone` raises."""
    layers = unprofiled.layers_of(session.spec, profile)
    return orders.ORDERS[rule].all_layers(layers, seed, costs_alone(session, profile, rule))


def costs_alone(session: Session, profile: Profile | None, rule: str) -> orders.Measure:
    """Return the function of a single layer that gives the nats that it is foretold to cost if it becomes low. Raises
    BudgetError (`check`), and what `make_foretold` raises."""
    klds = _of_layers(session, profile, rule)
    return lambda low: klds[low[0]]


def _of_layers(session: Session, profile: Profile | None, rule: str) -> dict[int, float]:
    check(session, rule, profiled=profile is not None)
    assert profile is not None
    low = {c.name: c.low_type for c in session.spec.tensors.choices}
    high = {c.name: c.high_type for c in session.spec.tensors.choices}
    foretold = make_foretold(session, profile, make_f16(session), _wanted(session, {}))
    klds = fisher.kld_of_layers(foretold, low, high)
    return {layer: klds.get(layer, 0.0) for layer in range(session.spec.tensors.n_layers)}


def of_types(
    session: Session, profile: Profile | None, types: Mapping[str, Collection[str]]
) -> dict[str, dict[str, float]] | None:
    """Return the nats that each of these types is foretold to cost each matrix; None where gradients are not to be had,
    of which the reporter is told."""
    if profile is None or session.spec.file:
        return None
    try:
        foretold = make_foretold(session, profile, make_f16(session), _wanted(session, types))
    except (CalibrationError, CheckpointError) as error:
        session.reporter.info(f"sensitivities are learned from measured files alone: {error.message}")
        return None
    if foretold.unseen:
        session.reporter.info(
            f"{len(foretold.unseen)} matrices show no gradients, such as {foretold.unseen[0]}: what they cost follows "
            "from their errors"
        )
    return fisher.costs(foretold, {name: set(kinds) for name, kinds in types.items()})


def _wanted(session: Session, types: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """These types, and the low and the high one of every matrix of a layer, as orders of layers compare them."""
    wanted = {name: set(kinds) for name, kinds in types.items()}
    matrices = {tensor.name for tensor in session.spec.source.tensors if len(tensor.shape) > 1}
    for choice in session.spec.tensors.choices:
        if choice.name in matrices and choice.layer is not None:
            wanted.setdefault(choice.name, set()).update((choice.low_type, choice.high_type))
    quantized = {name: kinds - set(two_type_plan.UNQUANTIZED) for name, kinds in wanted.items()}
    return {name: kinds for name, kinds in quantized.items() if kinds}
