"""Frozen values that measurements of files leave, in the order of their keys on disk.

A field that is UNSET is no key on disk, where one that is None is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType

from luq_gguf.core import question_scores
from luq_gguf.core.json_value import JsonValue, given


@dataclass(frozen=True)
class Estimate(JsonValue):
    """A mean with its 95% interval; None for both ends where there were too few samples for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean of second - first over the same questions. `p_value` is that of McNemar's exact test, where every answer
    is right or wrong; files of older versions have neither."""

    n_questions: int | UnsetType = UNSET
    p_value: float | UnsetType = UNSET


@dataclass(frozen=True)
class SplitFigures(JsonValue):
    """What was measured on the questions of one split of a set, as EvalResult has it of all of them. `scores` as in
    `question_scores`."""

    n_samples: int
    accuracy: Estimate | None
    reference_accuracy: Estimate | UnsetType = UNSET
    accuracy_change: Difference | UnsetType = UNSET
    kld: Estimate | UnsetType = UNSET
    scores: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        question_scores.check(given(self.scores))


@dataclass(frozen=True)
class Spread:
    """KL divergence over n_positions of tokens, in nats: mean with its 95% interval (None where there were too few
    different prompts for one), and quantiles."""

    mean: float
    low: float | None
    high: float | None
    median: float
    p90: float
    p99: float
    n_positions: int


@dataclass(frozen=True)
class Divergence(Spread):
    """A Spread with what the file diverges from itself where other batches are computed (`floor`; before version
    0.2, what the reference did), and the mean that kept tokens do not show."""

    floor: float | None
    missing_beyond_kept: float


@dataclass(frozen=True)
class Metrics:
    """What is kept of a file that a plan or a sweep measures; None where it was not asked for. `scores` are those of
    the questions, as in `question_scores`, and `splits` what was measured on each split, where the set has any."""

    accuracy: Estimate | None
    accuracy_change: Difference | None
    kld: Divergence | None
    kld_answer: Spread | None
    kld_text: Spread | None
    same_top: float | None
    perplexity: float | None
    metric: str | None
    scores: str | UnsetType = UNSET
    splits: Mapping[str, SplitFigures] | UnsetType = UNSET

    def __post_init__(self) -> None:
        question_scores.check(given(self.scores))

    @property
    def divergence(self) -> Divergence:
        """Of files that were compared with a reference. Raises ValueError for others."""
        if self.kld is None:
            raise ValueError("not compared with a reference")
        return self.kld

    def estimate(self, metric: str) -> Estimate | None:
        """Return the mean "kld" or the "accuracy" with its interval; None where it was not measured."""
        if metric == "kld":
            return Estimate(self.kld.mean, self.kld.low, self.kld.high) if self.kld else None
        return self.accuracy


@dataclass(frozen=True)
class Figures(JsonValue):
    """A measured file: its size, bits per weight, metrics, and average bits of its decoder layers' weights."""

    n_bytes: int
    bpw: float
    metrics: Metrics
    average_bits: float | UnsetType = UNSET


@dataclass(frozen=True)
class BenchmarkMetric:
    """A metric of a benchmark, with its standard error where lmms-eval gives one."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Benchmark(JsonValue):
    """What lmms-eval measured of a file in one of its tasks."""

    metrics: Mapping[str, BenchmarkMetric]
    n_samples: int
    task: str
    task_version: Any


@dataclass(frozen=True)
class BenchmarkConditions:
    """How benchmarks were run: by which versions, on how many samples of each ("all", or the most), with how many
    tokens of context, judged by which language model, and whether llama-server's prompts are the chat template's."""

    lmms_eval: str
    llama_cpp: str
    samples_each: int | str
    n_ctx: int
    judge: str | None
    prompt_as_template: bool


@dataclass(frozen=True, kw_only=True)
class SharedCounts(JsonValue):
    """How many questions, and how many of their pictures, the profile was calibrated with; UNSET where that is not
    known."""

    shared_lines: int | UnsetType = UNSET
    shared_pictures: int | UnsetType = UNSET

    def to_json(self) -> dict[str, Any]:
        """Return what the file says: what was measured on first."""
        content = super().to_json()
        counts = {key: content.pop(key) for key in ("shared_lines", "shared_pictures") if key in content}
        return content | counts

    def overlap(self, n_questions: int) -> str | None:
        """Return a sentence on the questions that were calibrated with; None where there are none."""
        lines, pictures = given(self.shared_lines), given(self.shared_pictures)
        parts = [f"{lines} were calibrated with"] if lines else []
        parts += [f"{pictures} have pictures that were"] if pictures else []
        return f"of {n_questions} questions {' and '.join(parts)}: others may give worse figures" if parts else None


@dataclass(frozen=True)
class EvalConditions(SharedCounts):
    """What a file was measured on, and how; `benchmarks` where any were run. `fit_images`: pictures were fitted first,
    and libmtmd was given token limits where that needed any. `gpu_layers`: how many layers were to run on which GPUs,
    where any were."""

    data: str | None
    data_sha256: str
    max_tokens: int
    threads: int | None
    kept_tokens_per_position: int | None
    interval: str
    benchmarks: BenchmarkConditions | UnsetType = UNSET
    fit_images: bool | UnsetType = UNSET
    image_min_tokens: int | UnsetType = UNSET
    image_max_tokens: int | UnsetType = UNSET
    gpu_layers: int | UnsetType = UNSET
    gpus: tuple[str, ...] | UnsetType = UNSET

    @property
    def has_fitted_images(self) -> bool:
        """Whether llama.cpp was shown what the checkpoint's own processor makes of the pictures."""
        return bool(given(self.fit_images))


REFERENCE, WIDE, FILE = "transformers", "16-bit file", "file"
AS_IS, FITTED = "as_is", "fitted"


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """What one model makes of questions, on the way from the checkpoint to a file.

    `name` is REFERENCE, WIDE or FILE; `pictures` is AS_IS or FITTED where llama.cpp saw any. All else is compared with
    transformers: `accuracy_change` over the same questions, `kld` in nats from its predictions over the prompts' text
    behind the picture (all of it where there is none), and the shares of equal top tokens there and of equal answers.
    `splits` has accuracy and its change on each split of the set, where it has any.
    """

    name: str
    file: str | None = None
    pictures: str | None = None
    accuracy: Estimate | None
    accuracy_change: Difference | None = None
    kld: Estimate | None = None
    same_top: float | None = None
    same_answers: float | None = None
    splits: Mapping[str, SplitFigures] | UnsetType = UNSET


@dataclass(frozen=True)
class ReferenceComparison:
    """A checkpoint in transformers, computed in `dtype`, and files of it, on the same questions."""

    checkpoint: str
    dtype: str
    n_samples: int
    metric: str | None
    max_tokens: int
    models: tuple[ComparedModel, ...]
    different_tokens: str | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class EvalResult(JsonValue):
    """What eval.json says of a file; None for what was not asked, UNSET for what its metric or the absence of a
    reference leaves out, and what the first versions did not write. `n_scored`: the questions that have answers, where
    not all have. `scores`: those of these questions, as in `question_scores`, which pair the file with others.
    `splits`: what was measured on each split of the set, in the set's order, and `splits_sha256` of which question is
    of which; UNSET where the set has none."""

    file: str
    file_sha256: str | UnsetType = UNSET
    reference: str | None
    n_samples: int
    metric: str | None
    accuracy: Estimate | None
    f1: float | UnsetType = UNSET
    reference_accuracy: Estimate | UnsetType = UNSET
    accuracy_change: Difference | UnsetType = UNSET
    kld: Divergence | None
    kld_prompt: Spread | None
    kld_answer: Spread | None
    kld_text: Spread | None
    same_top: float | None
    perplexity: float | None
    n_chunks: int
    conditions: EvalConditions
    benchmarks: Mapping[str, Benchmark] | UnsetType | None = UNSET
    n_scored: int | UnsetType = UNSET
    against: ReferenceComparison | UnsetType = UNSET
    scores: str | UnsetType = UNSET
    splits: Mapping[str, SplitFigures] | UnsetType = UNSET
    splits_sha256: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        question_scores.check(given(self.scores))

    @property
    def extent(self) -> tuple[int, int, int]:
        """How much was measured, for comparing with other measurements of a file: questions or chunks, chunks, and
        tokens of an answer."""
        return self.n_samples, self.n_chunks, self.conditions.max_tokens

    @property
    def is_measured(self) -> bool:
        """Whether it has a figure of its own, beside those of benchmarks."""
        return self.kld is not None or self.accuracy is not None or self.perplexity is not None

    @property
    def benchmark_metrics(self) -> list[tuple[str, Benchmark, str, BenchmarkMetric]]:
        """Every metric of every benchmark: (name, benchmark, metric's name, metric)."""
        benchmarks = given(self.benchmarks) or {}
        return [(name, task, metric, m) for name, task in benchmarks.items() for metric, m in task.metrics.items()]

    @property
    def metrics(self) -> Metrics:
        measured = (
            self.accuracy,
            given(self.accuracy_change),
            self.kld,
            self.kld_answer,
            self.kld_text,
            self.same_top,
            self.perplexity,
        )
        return Metrics(*measured, self.metric, self.scores, self.splits)


@dataclass(frozen=True)
class FileDifference(JsonValue):
    """How the accuracy of the file `second` differs from that of `first` over the same questions, and over those of
    each split, where the set has any."""

    first: str
    second: str
    accuracy_change: Difference
    splits: Mapping[str, Difference] | UnsetType = UNSET


def largest(results: Iterable[EvalResult]) -> EvalResult | None:
    """Return the measurement of a file on the most questions or chunks, and of several such the first, which is the
    last that was made; None if there is none."""
    return max((result for result in results if result.is_measured), key=lambda result: result.extent, default=None)
