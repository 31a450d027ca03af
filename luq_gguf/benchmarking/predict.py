"""Predicts the speed of a plan on this machine from measured rates of tensor types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from luq_gguf.benchmarking import type_benchmark
from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core import machine
from luq_gguf.core.errors import BudgetError, LuqError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ModelTensors, Plan, PredictedSpeed
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method import speed_model, two_type_plan
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

TERNARY = ("TQ1_0", "TQ2_0")  # fast, but made for models trained with ternary weights: not advised for others


class Predictor:
    """Predicts the speed of one model for choices of low layers. Rates of tensor types that are not known are measured
    where `measure` says so; without, LookupError is raised."""

    def __init__(self, spec: ModelSpec, threads: int | None, reporter: Reporter, *, measure: bool) -> None:
        self._tensors, self._geometry, self._measure = spec.tensors, Geometry(spec.source, spec.tensors), measure
        self._threads, self._reporter = threads or machine.cores(), reporter
        self._table = self._measured(speed_model.types_of(spec.tensors))

    def _measured(self, types: Sequence[str] | frozenset[str]) -> SpeedTable:
        if self._measure:
            return type_benchmark.measured_rates(self._geometry, self._threads, self._reporter, sorted(types))
        known = type_benchmark.known_rates(self._geometry, self._threads, types)
        if known is None:
            raise LookupError("the speeds of these types are not known")
        return known

    def decode_tps(self, low_layers: Sequence[int]) -> float:
        return self._speed(low_layers).decode_tps

    def _speed(self, low_layers: Sequence[int]) -> speed_model.Speed:
        return self._speed_of(two_type_plan.tensor_types(self._tensors, low_layers))

    def _speed_of(self, types: Mapping[str, str]) -> speed_model.Speed:
        return speed_model.predict(self._table, self._tensors, types, self._geometry.active_experts)

    def of(self, plan: Plan) -> PredictedSpeed | None:
        """Predict the speed of a plan, and of the stock file of its high ftype; None where not all of its types are
        known, and none are measured."""
        try:
            self._table = self._measured(
                speed_model.types_of(self._tensors) | speed_model.types_in(self._tensors, plan.tensor_types)
            )
        except LookupError:
            return None
        planned, stock = self._speed_of(plan.tensor_types), self._speed(())
        high_type = _usual_type(self._tensors)
        rates = self._table.rates
        comparable = (
            not plan.is_mixed and plan.low in rates and high_type in rates
        )  # rows may not fit the low type: then others stand for it
        ratio = (
            rates[plan.low].decode_weights_per_second / rates[high_type].decode_weights_per_second
            if comparable
            else 1.0
        )
        faster, others_known = self._smallest_faster(plan.low, high_type) if ratio < 1 else (None, True)
        return PredictedSpeed(
            planned.decode_tps,
            planned.prefill_tps,
            stock.decode_tps,
            stock.prefill_tps,
            self._threads,
            self._table.n_prompt,
            ratio,
            high_type,
            faster,
            _bytes_with(self._tensors, plan, faster) if faster else None,
            others_known,
        )

    def _smallest_faster(self, low: str, high: str) -> tuple[str | None, bool]:
        """The type, if any, and whether it was chosen among all types in between."""
        named = {*type_benchmark.CANDIDATES, low, high} - set(TERNARY)
        bits = {kind: reader.bits_per_weight(kind) for kind in named}
        try:
            table = self._measured([kind for kind in named if bits[low] < bits[kind] < bits[high]])
        except LookupError:
            return None, False
        except LuqError as error:  # hours of profiling are not lost for a hint
            self._reporter.info(f"other types could not be measured: {error.message}")
            return None, False
        return speed_model.smallest_faster(table, low, high, bits), True


def predictor(session: Session, *, required: bool, wanted: bool = False) -> Predictor | None:
    """Make a predictor. Types are measured, which takes minutes, where the speed is `required` by a budget or `wanted`
    by the user; otherwise only what is known already is used, and None is returned where that is not enough.

    Raises BudgetError if it is required and the speed cannot be predicted.
    """
    spec, reporter = session.spec, session.reporter
    try:
        built = Predictor(spec, session.options.threads, reporter, measure=required or wanted)
        for low_layers in ((), range(spec.tensors.n_layers)):
            built.decode_tps(low_layers)
    except (LuqError, LookupError) as error:
        if not (required or wanted):
            return None
        reason = error.message if isinstance(error, LuqError) else f"the type {error} does not fit all of its layers"
        sentence = f"The speed of {spec.checkpoint.name} cannot be predicted: {reason.rstrip('.')}."
        if required:
            raise BudgetError(sentence, "Choose a budget other than --target-tps.") from None
        reporter.info(sentence)
        return None
    return built


def tps_of(predictor: Predictor | None) -> Callable[[Sequence[int]], float] | None:
    return predictor.decode_tps if predictor else None


def _usual_type(tensors: ModelTensors) -> str:
    """Return the type that most weights of decoder layers have in the file of the high ftype."""
    count: Counter[str] = Counter()
    for choice in tensors.choices:
        if choice.layer is not None:
            count[choice.high_type] += choice.n_weights
    return count.most_common(1)[0][0]


def _bytes_with(tensors: ModelTensors, plan: Plan, kind: str) -> int:
    """Return the file's size in bytes with another low type."""
    low, n_bytes = set(plan.low_layers), plan.predicted_file_bytes
    for choice in tensors.choices:
        if choice.layer in low and choice.low_type == tensors.low:
            n_bytes += reader.type_bytes(kind, choice.n_weights) - choice.low_bytes
    return n_bytes
