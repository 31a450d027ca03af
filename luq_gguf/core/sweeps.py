"""Frozen values of many measured files: what sweep.json and alpha.json say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET, UnsetType

from luq_gguf.core.json_value import JsonValue
from luq_gguf.core.measurements import Figures, Metrics, SharedCounts
from luq_gguf.core.profile_facts import CalibrationFacts


@dataclass(frozen=True)
class MeterConditions(SharedCounts):
    """What files were compared with, and on what: so many questions, chunks of a text, or both. Layers are `low` or
    have the types of the file type `high`."""

    reference: str
    data: str
    data_sha256: str
    n_samples: int
    n_chunks: int
    metric: str
    max_tokens: int
    low: str
    high: str

    @property
    def amount(self) -> str:
        """How much it is, for people."""
        return f"{self.n_samples or self.n_chunks} samples of {self.data}"

    @property
    def caveat(self) -> str | None:
        """A sentence on questions that were calibrated with; None where there are none."""
        return self.overlap(self.n_samples)


@dataclass(frozen=True)
class SweepPoint(JsonValue):
    """A measured file of a sweep: which order and seed chose so many low layers (None and () for a file of another
    kind); `budget_bytes` of the best plans alone."""

    order: str
    seed: int
    n_low: int | None
    low_layers: tuple[int, ...]
    budget_bytes: int | UnsetType = field(default=UNSET, kw_only=True)
    n_bytes: int
    bpw: float
    metrics: Metrics
    average_bits: float | UnsetType = UNSET

    @classmethod
    def of(
        cls,
        order: str,
        figures: Figures,
        *,
        seed: int = 0,
        low_layers: tuple[int, ...] | None = None,
        budget_bytes: int | UnsetType = UNSET,
    ) -> SweepPoint:
        """Return the point of a file; `low_layers` is None for one that is not of so many low layers."""
        n_low = None if low_layers is None else len(low_layers)
        chosen = tuple(sorted(low_layers or ()))
        measured = (figures.n_bytes, figures.bpw, figures.metrics, figures.average_bits)
        return cls(order, seed, n_low, chosen, *measured, budget_bytes=budget_bytes)

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        if self.order == "uniform F16":  # its keys have always had this order
            content["metrics"] = content.pop("metrics")
        return content


@dataclass(frozen=True)
class MixPoint:
    """A measured file of a calibration mix: what of it `changes` with alpha ("both", "ranking" or "imatrix")."""

    alpha: float
    changes: str
    n_low: int
    low_layers: tuple[int, ...]
    n_bytes: int
    bpw: float
    metrics: Metrics
    average_bits: float | UnsetType = UNSET


@dataclass(frozen=True)
class MixRanking:
    """Kendall's tau between an alpha's ranking and the run's own."""

    alpha: float
    kendall_tau: float


@dataclass(frozen=True)
class MixConditions(MeterConditions):
    """What all files of calibration mixes share, with what the run's own profile was calibrated with."""

    calibration: CalibrationFacts


@dataclass(frozen=True)
class CalibrationMix(JsonValue):
    """What alpha.json says: files with the ranking and the importance of other shares of samples with images."""

    run_alpha: float
    points: tuple[MixPoint, ...]
    rankings: tuple[MixRanking, ...]
    conditions: MixConditions


@dataclass(frozen=True)
class Sweep(JsonValue):
    """What sweep.json says, and what a sweep found of calibration mixes where it was asked to."""

    points: tuple[SweepPoint, ...]
    conditions: MeterConditions
    alpha: CalibrationMix | UnsetType = UNSET

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"points": [point.to_json() for point in self.points]}
