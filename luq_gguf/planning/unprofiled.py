"""Plans of a model without a profile: a GGUF file, whose layers have no entropies."""

from __future__ import annotations

from collections.abc import Sequence

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.types import LayerEntropy, Profile
from luq_gguf.method import ranking
from luq_gguf.method.orders import MEASURED, ORDERS
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session


def layers_of(spec: ModelSpec, profile: Profile | None) -> Sequence[LayerEntropy]:
    """Return the layers that an order is made of; without a profile nothing is known of them but their numbers."""
    return profile.layers if profile else ranking.without_entropies(spec.tensors.n_layers)


def named_order(session: Session, rules: PlanRules, rule: str) -> tuple[int, ...] | None:
    """Return the order in which the rules name the layers that may be low, and then all others, where the order `rule`
    needs the entropies that there are not; None where it does not. Raises BudgetError where no layers are named."""
    if not ORDERS[rule].sign:
        return None
    n_layers = session.spec.tensors.n_layers
    if rules.low_only is None:
        raise BudgetError(
            f"--rank {rule} needs the entropies of the layers, but {session.run.path} has no profile.json.",
            f"Name the layers with --low-only, give --rank {' or '.join(MEASURED)} with --eval SET, or put the "
            "profile.json of the file's checkpoint into that folder.",
        )
    named = dict.fromkeys(layer % n_layers for layer in rules.low_only)
    return (*named, *(layer for layer in range(n_layers) if layer not in named))


def sweepable(session: Session, orders: Sequence[str]) -> tuple[str, ...]:
    """Return the orders of a sweep that need no entropies, and say which are left out. Raises BudgetError where all
    are."""
    possible = tuple(name for name in orders if name not in ORDERS or not (ORDERS[name].sign or ORDERS[name].foretold))
    left_out = [name for name in orders if name not in possible]
    why = f"{session.run.path} has no profile.json with the entropies of the layers"
    if orders and not possible:
        raise BudgetError(f"{why}, which the order {left_out[0]} needs.", f"Give --order {' or '.join(MEASURED)}.")
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        session.reporter.info(f"{why}: the order{'s' * (len(left_out) > 1)} {' and '.join(left_out)} {verb} left out")
    return possible
