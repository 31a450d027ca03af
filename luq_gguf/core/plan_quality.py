"""Frozen values of how good a plan's file is expected or measured to be, and what is compared with it."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from luq_gguf.core.json_value import JsonValue
from luq_gguf.core.sweeps import MeterConditions


@dataclass(frozen=True)
class LowestKld:
    """The least KL divergence of any choice of types within a budget, in nats: the least that was estimated, and a
    bound that no choice is estimated to be below."""

    estimate: float
    bound: float


@dataclass(frozen=True)
class PredictedKld(JsonValue):
    """The KL divergence that a plan's file is predicted to have, in nats, with its error, and the search that chose it;
    the first versions wrote less of that."""

    value: float
    error: float
    of_all_types_within_budget: LowestKld | UnsetType = UNSET
    files_measured: int | UnsetType = UNSET
    swaps_measured: int | UnsetType = UNSET
    swaps_that_helped: int | UnsetType = UNSET
    budget_left_bytes: int | UnsetType = UNSET
    positions_measured: int | UnsetType = UNSET
    positions_saved: int | UnsetType = UNSET


@dataclass(frozen=True)
class MeasuredKld(JsonValue):
    """The mean KL divergence that a plan's file was measured to have, in nats, with its 95% interval (None where there
    were too few different prompts for one)."""

    mean: float
    low: float | None
    high: float | None
    on: MeterConditions


@dataclass(frozen=True)
class ComparedFile(JsonValue):
    """Another file that was measured for a plan: its mean KL divergence in nats, with its 95% interval."""

    name: str
    file_bytes: int
    kld: float
    low: float | UnsetType | None = UNSET
    high: float | UnsetType | None = UNSET


@dataclass(frozen=True)
class UniformBaseline(JsonValue):
    """The largest uniform file of at most a plan's size, with the estimated sums of relative output errors of all
    matrices of both files."""

    name: str
    file_bytes: int
    error_sum: float
    error_sum_of_plan: float
