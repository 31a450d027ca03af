"""How long the parts of a conversion will take on this machine, and how long they took.

What is expected is a product: work, counted in weights, times what a weight takes a core. These rates were measured
once (AMD Zen 4, one core) and are corrected by what conversions have taken on the machine at hand, which is kept per
machine. They are estimates, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from luq_gguf.core import atomic, json_input, json_output, machine, paths
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.units import format_seconds

PROFILE, CONVERT, FORETELL = "profile", "16-bit files", "backward pass"
QUANTIZE, MEASURE = "quantize", "measure files"
PARTS, OTHER = (PROFILE, CONVERT, FORETELL, QUANTIZE, MEASURE), "other"
# Nanoseconds that a weight takes a core: of llama-quantize by type, and of the other parts.
_BY_TYPE = {
    "F32": 10, "F16": 18, "BF16": 18, "Q8_0": 15, "Q4_0": 45, "IQ1_S": 252, "IQ1_M": 202, "IQ2_XXS": 582,
    "IQ2_XS": 948, "IQ2_S": 341, "Q2_K": 219, "IQ3_XXS": 650, "IQ3_S": 435, "Q3_K": 68, "IQ4_XS": 300, "IQ4_NL": 205,
    "Q4_K": 143, "Q5_K": 217, "Q6_K": 82,
}  # fmt: skip
_USUAL = 200  # of types that are not listed
_CONVERTED = 20
_TOKEN = 0.08  # of a token that goes forward once
LEAST_LEARNT = 5.0  # seconds, expected and taken: what takes less consists of loading and of reading
SHORTEST = 60.0  # seconds: nobody asks how long less will take
SHORT = 0.02  # of all that was spent: parts below are not listed
_STAGES = {
    "profile": PROFILE, "f16": CONVERT, "mmproj": CONVERT, "fisher": FORETELL, "quantize": QUANTIZE,
    "baseline": QUANTIZE,
}  # fmt: skip


@dataclass(frozen=True)
class Durations:
    """Seconds of each part of a conversion. `is_known`: whether this machine has done such parts before."""

    seconds: Mapping[str, float]
    is_known: bool = True

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, float]:
        return {part: round(value, 1) for part, value in self.seconds.items()}

    def sentence(self) -> str | None:
        """Return what is said before it starts; None where it takes less than SHORTEST."""
        if self.total < SHORTEST:
            return None
        known = "" if self.is_known else ", a guess until this machine has made a file"
        return f"expected to take about {format_seconds(self.total)}{known}: {self.listed()}"

    def listed(self) -> str:
        """Return the parts as text, the longest first, without those that hardly count."""
        parts = sorted(self.seconds.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {format_seconds(value)}" for name, value in parts if value >= SHORT * self.total)


def quantize_work(n_weights: Mapping[str, int], types: Mapping[str, str]) -> float:
    """Return the seconds that a core takes for tensors of these types, `n_weights` by name."""
    return sum(n * _BY_TYPE.get(types[name], _USUAL) for name, n in n_weights.items()) * 1e-9


def convert_work(n_weights: int) -> float:
    """Return the seconds that a core takes to write the 16-bit file."""
    return n_weights * _CONVERTED * 1e-9


def token_work(n_weights: int, n_tokens: float) -> float:
    """Return the seconds that a core takes for the forward passes of so many tokens."""
    return n_weights * n_tokens * _TOKEN * 1e-9


def expected(work: Mapping[str, float], threads: int | None) -> Durations:
    """Return the durations of work, in seconds of a core by part."""
    factors = _factors(threads)
    n_cores = threads or machine.cores()
    seconds = {part: value / n_cores * factors.get(part, 1.0) for part, value in work.items() if value > 0}
    return Durations(seconds, all(part in factors for part in seconds))


def spent(seconds: Mapping[str, float]) -> Durations:
    """Return the durations of parts from those of stages."""
    parts: dict[str, float] = {}
    for stage, value in seconds.items():
        part = _part_of(stage)
        parts[part] = parts.get(part, 0.0) + value
    return Durations(parts)


def learn(work: Mapping[str, float], took: Durations, threads: int | None) -> None:
    """Keep how the parts that took long compare with their rates, for the next conversion on this machine. `work` is
    that of the parts that were done completely."""
    n_cores = threads or machine.cores()
    factors = {
        part: took.seconds[part] * n_cores / value
        for part, value in work.items()
        if value / n_cores >= LEAST_LEARNT and took.seconds.get(part, 0.0) >= LEAST_LEARNT
    }
    if factors:
        with suppress(OSError):  # a cache that cannot be written
            path = _path(threads)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json_output.indented(_factors(threads) | factors))


def _part_of(stage: str) -> str:
    if stage.startswith(("file ", "bank-")):
        return QUANTIZE
    return _STAGES.get(stage, stage if stage == MEASURE else OTHER)


def _factors(threads: int | None) -> dict[str, float]:
    path = _path(threads)
    try:
        content = json_input.read(path) if path.is_file() else {}
    except (OSError, ValueError):
        content = {}
    kept = content.items() if isinstance(content, dict) else ()
    return {str(part): float(value) for part, value in kept if isinstance(value, int | float) and 0 < value < 1e6}


def _path(threads: int | None) -> Path:
    return paths.cache("times") / f"{hash_of(machine.cpu_name(), machine.cores(), threads)}.json"
