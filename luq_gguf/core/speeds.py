"""Frozen values of measured speeds: what bench.json says of files, and what `bench --types` says of tensor types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from luq_gguf.core.json_value import JsonValue

BUSY = 0.1  # share of all cores' time used by others, above which the user and the model card are told
ON_CPU = "all layers on the CPU"  # where the layers ran, in bench.json


@dataclass(frozen=True)
class Ratio(JsonValue):
    """A ratio, and the interval in which the same measurement made again is expected to lie (None for one pair)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Samples(JsonValue):
    """Repetitions of one measurement: mean, standard deviation (0 for one), median, and each of them."""

    mean: float
    std: float
    median: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class BenchRow(JsonValue):
    """What bench.json says of a file at a number of threads. `prefill` is by prompt length, `prefill_tps` of the
    longest; `image` has samples by what was timed, and peak_rss_bytes. None is what was not measured; the first version
    wrote neither `sha256` nor `kernels`."""

    file: str
    sha256: str | None = field(default=None, kw_only=True)
    kernels: bool = field(default=False, kw_only=True)
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

    @property
    def name(self) -> str:
        """The name for people: the file's, and whether it ran with our kernels."""
        return self.file + (" with kernels" if self.kernels else "")

    def image_seconds(self, what: str) -> float | None:
        """Return the median of one of the times of an answer about an image; None where none was asked for."""
        samples = self.image[what] if self.image else None
        return samples.median if isinstance(samples, Samples) else None


@dataclass(frozen=True)
class Machine(JsonValue):
    """A machine: `features` are the instruction sets that ggml's kernels ask for, `cores_allowed` the logical cores
    that the process may use."""

    cpu: str
    features: tuple[str, ...]
    physical_cores: int
    logical_cores: int | None
    cores_allowed: int | UnsetType = field(default=UNSET, kw_only=True)
    memory_bytes: int
    governor: str | None
    system: str


@dataclass(frozen=True)
class LlamaBuild:
    """The package that llama.cpp was built from, and CMake's arguments."""

    package: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class BenchMachine(Machine):
    """The machine that files were measured on, what else it did (shares of all cores' time, before and, at most, during
    a run), and its llama.cpp; llama-bench tells commit and backends, and where the layers ran (`layers_on`)."""

    busy_share_before: float
    build: LlamaBuild
    llama_cpp_commit: str | UnsetType = UNSET
    backends: str | UnsetType = UNSET
    layers_on: str | UnsetType = UNSET
    others_share_during: float | UnsetType = UNSET


@dataclass(frozen=True)
class BenchConditions(JsonValue):
    """How all files were measured. `baseline` is the file that ratios are relative to; `weights`, `model` and
    `low_layers` are of files that were made of a geometry alone, `kernels` of files that also ran with ours."""

    repetitions: int
    prompt_tokens: tuple[int, ...]
    generated_tokens: int
    threads: tuple[int, ...]
    image: str
    order: str
    ratio: str
    baseline: str | None
    weights: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    low_layers: str | UnsetType = UNSET
    kernels: str | UnsetType = UNSET


@dataclass(frozen=True)
class Bench(JsonValue):
    """What bench.json says."""

    machine: BenchMachine
    conditions: BenchConditions
    rows: tuple[BenchRow, ...]

    @property
    def most_threads(self) -> int:
        """The most threads that files were measured with. Raises ValueError for none."""
        return max(self.conditions.threads)

    @property
    def rows_of_most_threads(self) -> tuple[BenchRow, ...]:
        return tuple(row for row in self.rows if row.threads == self.most_threads)


@dataclass(frozen=True)
class TypeSpeed:
    """How fast layers in a type are; ratios are to Q4_K, None where that was not measured."""

    type: str
    bpw: float
    gigabytes_per_second: float
    decode_weights_per_second: float
    prefill_weights_per_second: float
    decode_ratio: float | None
    prefill_ratio: float | None


@dataclass(frozen=True)
class TypeSpeeds(JsonValue):
    """How fast layers in each type are on this machine, which reads so many gigabytes (10^9) per second from memory."""

    threads: int
    prompt_tokens: int
    read_gigabytes_per_second: float
    types: tuple[TypeSpeed, ...]
