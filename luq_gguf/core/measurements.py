"""Frozen values that measurements of files leave, in the order of their keys on disk.

A field that is UNSET is no key on disk, where one that is None is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Ratio:
    """A ratio, and the interval in which the same measurement made again is expected to lie (None for one pair)."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Samples:
    """Repetitions of one measurement: mean, standard deviation (0 for one), median, and each of them."""

    mean: float
    std: float
    median: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """KL divergence over n_positions of tokens, in nats: mean with its 95% interval, and quantiles."""

    mean: float
    low: float
    high: float
    median: float
    p90: float
    p99: float
    n_positions: int


@dataclass(frozen=True)
class Divergence(Spread):
    """A Spread with what the reference diverges from itself (`floor`), and the mean that kept tokens do not show."""

    floor: float | None
    missing_beyond_kept: float


@dataclass(frozen=True)
class Metrics:
    """What is kept of a file that a plan or a sweep measures; None where it was not asked for."""

    accuracy: Estimate | None
    accuracy_change: Estimate | None
    kld: Divergence | None
    kld_answer: Spread | None
    kld_text: Spread | None
    same_top: float | None
    perplexity: float | None
    metric: str | None

    @property
    def divergence(self) -> Divergence:
        """Of files that were compared with a reference. Raises ValueError for others."""
        if self.kld is None:
            raise ValueError("not compared with a reference")
        return self.kld


@dataclass(frozen=True)
class Figures:
    """A measured file: its size, bits per weight, metrics, and average bits of its decoder layers' weights."""

    n_bytes: int
    bpw: float
    metrics: Metrics
    average_bits: float | UnsetType = UNSET


@dataclass(frozen=True)
class SweepPoint:
    """A measured file of a sweep: which order and seed chose so many low layers (None and () for a file of another
    kind); `budget_bytes` of the best plans alone."""

    order: str
    seed: int
    n_low: int | None
    low_layers: tuple[int, ...]
    budget_bytes: int | UnsetType
    n_bytes: int
    bpw: float
    metrics: Metrics
    average_bits: float | UnsetType

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
        return cls(order, seed, n_low, chosen, budget_bytes, *measured)


@dataclass(frozen=True)
class BenchRow:
    """What bench.json says of a file at a number of threads. `prefill` is by prompt length, `prefill_tps` of the
    longest; `image` has samples by what was timed, and peak_rss_bytes. None is what was not measured."""

    file: str
    sha256: str | None
    kernels: bool
    n_bytes: int
    bpw: float
    threads: int
    decode_tps: Samples
    prefill_tps: Samples | None
    prefill: Mapping[str, Samples]
    decode_ratio: Ratio | None
    prefill_ratio: Ratio | None
    peak_rss_bytes: int
    fits_memory: bool
    image: Mapping[str, Samples | int] | None


@dataclass(frozen=True)
class EvalConditions:
    """What a file was measured on, and how; `benchmarks` where any were run."""

    data: str | None
    data_sha256: str
    max_tokens: int
    threads: int | None
    kept_tokens_per_position: int | None
    interval: str
    benchmarks: Mapping[str, Any] | UnsetType = UNSET


@dataclass(frozen=True)
class EvalResult:
    """What eval.json says of a file; None for what was not asked, UNSET for what its metric or the absence of a
    reference leaves out. `n_scored`: the questions that have answers, where not all have."""

    file: str
    file_sha256: str
    reference: str | None
    n_samples: int
    metric: str | None
    accuracy: Estimate | None
    f1: float | UnsetType
    reference_accuracy: Estimate | UnsetType
    accuracy_change: Estimate | UnsetType
    kld: Divergence | None
    kld_prompt: Spread | None
    kld_answer: Spread | None
    kld_text: Spread | None
    same_top: float | None
    perplexity: float | None
    n_chunks: int
    conditions: EvalConditions
    benchmarks: Mapping[str, Any] | UnsetType | None = UNSET
    n_scored: int | UnsetType = UNSET

    @property
    def metrics(self) -> Metrics:
        change = None if isinstance(self.accuracy_change, UnsetType) else self.accuracy_change
        measured = (self.accuracy, change, self.kld, self.kld_answer, self.kld_text, self.same_top, self.perplexity)
        return Metrics(*measured, self.metric)
