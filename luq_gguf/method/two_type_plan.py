"""From a ranking and a budget to a type for every tensor. Pure arithmetic on bytes that the caller measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget, ModelTensors, Plan
from luq_gguf.core.units import format_bpw, format_size, padded

UNQUANTIZED = ("F32", "F16", "BF16")
ENDS = ("token_embd.weight", "output.weight")


def tensor_types(tensors: ModelTensors, low_layers: Sequence[int]) -> dict[str, str]:
    """Return the type of every tensor when these layers are low and everything else has its stock type."""
    low = set(low_layers)
    return {c.name: c.low_type if c.layer in low else c.high_type for c in tensors.choices}


def data_bytes(tensors: ModelTensors, low_layers: Sequence[int]) -> int:
    """Return the bytes of all tensors, without header and padding: the sum that llama-quantize's dry run gives."""
    low = set(low_layers)
    return sum(c.low_bytes if c.layer in low else c.high_bytes for c in tensors.choices)


def file_bytes(tensors: ModelTensors, low_layers: Sequence[int]) -> int:
    """Return the bytes of the whole file: header, and every tensor padded to the alignment."""
    low = set(low_layers)
    sizes = (c.low_bytes if c.layer in low else c.high_bytes for c in tensors.choices)
    return tensors.header_bytes + sum(padded(size, tensors.alignment) for size in sizes)


def may_be_low(tensors: ModelTensors, order: Sequence[int]) -> tuple[int, ...]:
    """Return the layers of an order that the rules allow to become low."""
    kept = tensors.kept
    return tuple(layer for layer in order if layer not in kept)


def bits_per_weight(tensors: ModelTensors, low_layers: Sequence[int]) -> float:
    """Return 8 x tensor bytes / weights of the text model, embeddings and head included."""
    return 8 * data_bytes(tensors, low_layers) / tensors.n_weights


def layer_bits(tensors: ModelTensors, low_layers: Sequence[int]) -> float:
    """Return the average bits of the decoder layers' weights alone, which the paper calls bits."""
    low, inside = set(low_layers), [c for c in tensors.choices if c.layer is not None]
    n_bytes = sum(c.low_bytes if c.layer in low else c.high_bytes for c in inside)
    return 8 * n_bytes / sum(c.n_weights for c in inside)


def check_budget(tensors: ModelTensors, budget: Budget) -> None:
    """Raise BudgetError, naming the smallest possible file, where no number of low layers meets the budget.

    Holds for every ranking, so it runs before anything heavy.
    """
    n, rules = tensors.n_layers, tensors.rules
    all_layers = may_be_low(tensors, range(n))
    n_free = len(all_layers)
    if budget.low_layers is not None and not 0 <= budget.low_layers <= n_free:
        allowed = "" if n_free == n else f", {n_free} of which may be low"
        raise BudgetError(
            f"--low-layers {budget.low_layers} is impossible{rules.sentence_part}: the model has {n} decoder "
            f"layers{allowed}.",
            f"Choose a number from 0 to {n_free}.",
        )
    some_low = {0: "no layer", 1: "the only layer that may be low"}.get(n_free, f"all {n_free} layers that may be low")
    all_low = f"all {n} layers" if n_free == n else some_low
    others = "or choose smaller --low or --high types" + (f", or change {' and '.join(rules.options)}" if rules else "")
    smallest, least = file_bytes(tensors, all_layers), bits_per_weight(tensors, all_layers)
    if budget.n_bytes is not None and budget.n_bytes < smallest:
        raise BudgetError(
            f"No file of {format_size(budget.n_bytes)} is possible{rules.sentence_part}: with {all_low} in "
            f"{tensors.low} the text model still takes {format_size(smallest)} ({smallest} bytes, "
            f"{format_bpw(least)} bpw).",
            f"Ask for --target-size {format_size(smallest, up=True).replace(' ', '')} or more, {others}.",
        )
    if budget.bpw is not None and budget.bpw < least:
        raise BudgetError(
            f"No file of {budget.bpw:g} bpw is possible{rules.sentence_part}: with {all_low} in {tensors.low} the text "
            f"model still takes {format_bpw(least)} bpw ({format_size(smallest)}).",
            f"Ask for --target-bpw {format_bpw(least)} or more, {others}.",
        )


def low_layer_count(
    tensors: ModelTensors,
    order: Sequence[int],
    budget: Budget,
    decode_tps: Callable[[Sequence[int]], float] | None = None,
) -> int:
    """Return the fewest of the layers that may be low, taken from the front of the order, that meet the budget.

    `decode_tps` predicts the speed of a choice of low layers; a budget of speed needs it.
    """
    check_budget(tensors, budget)
    order = may_be_low(tensors, order)
    if budget.decode_tps is not None and decode_tps is not None:
        return _fewest_for_speed(tensors, order, budget.decode_tps, decode_tps)
    if budget.low_layers is not None:
        return budget.low_layers
    for count in range(len(order) + 1):
        if is_met(tensors, order[:count], budget):
            return count
    raise BudgetError("No budget was given.", "Give --low-layers, --target-size, --target-bpw or --target-tps.")


def is_met(
    tensors: ModelTensors,
    low_layers: Sequence[int],
    budget: Budget,
    decode_tps: Callable[[Sequence[int]], float] | None = None,
) -> bool:
    """Return whether these low layers are enough for a budget that is not one of quality."""
    if budget.decode_tps is not None and decode_tps is not None:
        return decode_tps(low_layers) >= budget.decode_tps
    if budget.low_layers is not None:
        return len(low_layers) >= budget.low_layers
    if budget.n_bytes is not None:
        return file_bytes(tensors, low_layers) <= budget.n_bytes
    return budget.bpw is not None and bits_per_weight(tensors, low_layers) <= budget.bpw


def _fewest_for_speed(
    tensors: ModelTensors, order: Sequence[int], target_tps: float, decode_tps: Callable[[Sequence[int]], float]
) -> int:
    speeds = [decode_tps(order[:count]) for count in range(len(order) + 1)]
    count = next((count for count, speed in enumerate(speeds) if speed >= target_tps), None)
    if count is None:
        best = max(range(len(speeds)), key=speeds.__getitem__)
        raise BudgetError(
            f"No number of layers in {tensors.low} reaches {target_tps:g} tokens/s on this machine"
            f"{tensors.rules.sentence_part}: the highest predicted speed is {speeds[best]:.1f}, with {best} low "
            f"layer{'s' * (best != 1)}.",
            "Ask for a lower speed, or choose a --low type that is faster here: luq-gguf bench --types lists them.",
        )
    return count


def make_plan(
    tensors: ModelTensors,
    order: Sequence[int],
    budget: Budget,
    ranking: str,
    near_ties: Sequence[tuple[int, int]] = (),
    decode_tps: Callable[[Sequence[int]], float] | None = None,
) -> Plan:
    """Return the plan in which layers become low, in the given order, until the budget is met. Raises BudgetError where
    it cannot be met."""
    count = low_layer_count(tensors, order, budget, decode_tps)
    low = tuple(sorted(may_be_low(tensors, order)[:count]))
    return Plan(
        low=tensors.low,
        high=tensors.high,
        ranking=ranking,
        low_layers=low,
        tensor_types=tensor_types(tensors, low),
        predicted_bytes=data_bytes(tensors, low),
        predicted_file_bytes=file_bytes(tensors, low),
        bpw=bits_per_weight(tensors, low),
        near_ties=tuple((a, b) for a, b in near_ties),
        order=tuple(order),
        without_importance=tensors.without_importance,
        budget={k: v for k, v in vars(budget).items() if v is not None},
        rules=tensors.rules,
    )
