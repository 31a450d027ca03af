"""How fast a plan will be on this CPU, from what each tensor type does there: pure arithmetic on measured rates.

A token costs the sum, over the matrices of its layers, of their weights over the type's rate, and a constant: the head,
which is the same in all plans, and what no matrix explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luq_gguf.core.types import ModelTensors, TensorChoice


@dataclass(frozen=True)
class TypeRate:
    """Rates of layers in one type: weights per second in decode (one token at a time), and in prefill (weights times
    tokens per second)."""

    decode_weights_per_second: float
    prefill_weights_per_second: float


@dataclass(frozen=True)
class SpeedTable:
    """Rates by type for one CPU, number of threads and geometry. The constants are the seconds of a token outside its
    layers: the head, in its stock type, and everything that no matrix explains. `n_prompt` is the prompt length that
    prefill was measured with."""

    rates: Mapping[str, TypeRate]
    decode_constant: float
    prefill_constant: float
    threads: int
    n_prompt: int


@dataclass(frozen=True)
class Speed:
    """Predicted tokens/s."""

    decode_tps: float
    prefill_tps: float


def types_of(tensors: ModelTensors) -> frozenset[str]:
    """Return the types that a prediction of any plan of these tensors needs."""
    return frozenset(kind for choice in _multiplied(tensors) for kind in (choice.low_type, choice.high_type))


def types_in(tensors: ModelTensors, types: Mapping[str, str]) -> frozenset[str]:
    """Return the types of a plan that a prediction of it needs."""
    return frozenset(types[choice.name] for choice in _multiplied(tensors))


def predict(table: SpeedTable, tensors: ModelTensors, types: Mapping[str, str], active_experts: float = 1.0) -> Speed:
    """Return the tokens/s of a file with these types.

    `active_experts` is the share of a mixture's experts that a token goes through. Raises KeyError for a type that the
    table does not hold.
    """
    decode, prefill = table.decode_constant, table.prefill_constant
    for choice in _multiplied(tensors):
        rate = table.rates[types[choice.name]]
        n_weights = choice.n_weights * (active_experts if "_exps" in choice.name else 1.0)
        decode += n_weights / rate.decode_weights_per_second
        prefill += n_weights / rate.prefill_weights_per_second
    return Speed(1 / decode, 1 / prefill)


def _multiplied(tensors: ModelTensors) -> list[TensorChoice]:
    """The matrices of layers."""
    plain = ("F32", "F16", "BF16")  # norms and biases; also matrices that stay so, such as routers, are small
    return [choice for choice in tensors.choices if choice.layer is not None and choice.high_type not in plain]


def smallest_faster(table: SpeedTable, low: str, high: str, bits: Mapping[str, float]) -> str | None:
    """Return, of the types in `bits`, the one with the fewest bits above the low type's whose layers decode faster than
    the high type's; None if there is none."""
    faster = [
        kind
        for kind, rate in table.rates.items()
        if kind in bits
        and bits[low] < bits[kind] < bits[high]
        and rate.decode_weights_per_second > table.rates[high].decode_weights_per_second
    ]
    return min(faster, key=lambda kind: bits[kind], default=None)
