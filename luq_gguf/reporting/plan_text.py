"""Describes a plan in sentences that the command line, the report and the model card share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luq_gguf.core.types import BEST, STOCK, Plan
from luq_gguf.core.units import format_size
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.method.two_type_plan import ENDS, UNQUANTIZED


def describe(plan: Plan) -> str:
    """Return a sentence about the types that a plan gives its layers, for people."""
    if not plan.is_mixed:
        return (
            f"{len(plan.low_layers)} of {len(plan.order)} layers in {plan.low}, by {plan.ranking}: "
            f"{', '.join(map(str, plan.low_layers)) or 'none'}; everything else as in {plan.high}"
        )
    inside = Counter(k for name, k in plan.tensor_types.items() if layer_of(name) is not None and k not in UNQUANTIZED)
    counted = ", ".join(f"{kind} {count}" for kind, count in inside.most_common())
    ends = [f"{name.removesuffix('.weight')} {plan.tensor_types[name]}" for name in ENDS if name in plan.tensor_types]
    chosen = "best of many types" if plan.ranking == BEST else "types edited by hand"
    return f"{chosen}, matrices of {len(plan.order)} layers: {counted}; {', '.join(ends)}"


def kind(plan: Plan) -> str:
    """Return in a few words what kind of file a plan gives."""
    if plan.ranking == STOCK:
        return "llama-quantize's own mix"
    if plan.is_mixed:
        return "best of many types" if plan.ranking == BEST else "types edited by hand"
    rule = "" if plan.ranking == "entropy" else f", by {plan.ranking}"
    return f"{len(plan.low_layers)} of {len(plan.order)} layers in {plan.low}{rule}"


def rules_line(plan: Plan) -> str | None:
    """Return a sentence on what the user allowed the plan to do; None where everything was left to it."""
    rules = plan.rules
    parts = [f"never low: {_layers(rules.keep)}"] if rules.keep else []
    parts += [f"only these may be low: {_layers(rules.low_only)}"] if rules.low_only is not None else []
    parts += [f"output.weight in {rules.output_type}"] if rules.output_type else []
    parts += [f"token_embd.weight in {rules.embedding_type}"] if rules.embedding_type else []
    return f"by request, {'; '.join(parts)}" if parts else None


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}"


def unsettled_line(plan: Plan) -> str | None:
    """Return a sentence on the layers that only some ways of estimating the entropies choose, and how many do."""
    shares = ", ".join(f"{layer} ({share:.0%})" for layer, share in sorted(plan.unsettled.items()))
    what = "unsettled layers, with the share of the ways of estimating the ranking that make them low"
    return f"{what}: {shares}" if shares else None


def better_line(plan: Plan) -> str | None:
    """Return a sentence if another file of at most the same size was measured to be better than the plan's."""
    if plan.measured_kld is None:
        return None
    ours = plan.measured_kld.mean
    better = [file for file in plan.compared if file.kld < ours and file.file_bytes <= plan.predicted_file_bytes]
    if not better:
        return None
    best = min(better, key=lambda file: file.kld)
    return (
        f"better at the same size or smaller, measured on the same questions: {best.name}, "
        f"{format_size(best.file_bytes)}, mean KLD {best.kld:.3g} compared with {ours:.3g} for this plan; "
        "--plan best searches for an even better one"
    )
