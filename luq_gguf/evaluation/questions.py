"""Defines what files are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luq_gguf.core import overlap
from luq_gguf.core.errors import EvaluationError, RunFolderError
from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import SharedCounts
from luq_gguf.core.types import Budget, EvalData, Sample
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation import scoring
from luq_gguf.evaluation.context import check_context
from luq_gguf.hf import datasets
from luq_gguf.method.metrics import vqa
from luq_gguf.method.orders import MEASURED_OPTIONS
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder


@dataclass(frozen=True)
class QuestionSet:
    """Describes what to measure files on: questions (`source`: a .jsonl file, a folder of images or a Hub dataset id),
    a text file, or both. Raises EvaluationError for a metric that does not exist."""

    source: str | Path | None = None
    text: str | Path | None = None
    metric: str = "auto"
    samples: int | None = None
    chunks: int = 32
    max_tokens: int = 32
    n_ctx: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in ("auto", "none", *vqa.METRICS):
            hint = f"Give auto, {', '.join(vqa.METRICS)}, or none."
            raise EvaluationError(f"There is no metric named {self.metric}.", hint)

    def read(self, model: Path, cache: Path) -> EvalData:
        return evaluation.read_data(
            None if self.source is None else str(self.source),
            Path(self.text) if self.text else None,
            model,
            n_samples=self.samples,
            n_chunks=self.chunks,
            seed=self.seed,
            cache=cache,
        )

    def drawn(self, cache: Path) -> tuple[Sample, ...]:
        """Return the questions themselves. Raises CalibrationError and EvaluationError."""
        if self.source is None:
            raise EvaluationError("There are no questions to measure on.", "Give --eval SET.")
        return datasets.read_questions(str(self.source), self.samples, self.seed, cache)

    def check_context(self, model: Path, mmproj: Path | None, samples: Sequence[Sample]) -> None:
        """Refuse questions that do not fit in the context of a file, or of a header-only GGUF. Raises
        EvaluationError."""
        name = datasets.source_name(str(self.source))
        numbered = dict(enumerate(samples))
        check_context(model, mmproj, name, numbered, n_ctx=self.n_ctx, max_tokens=self.max_tokens)


def shared_with_calibration(run: RunFolder, samples: Sequence[Sample]) -> SharedCounts:
    """Return how many questions the run folder's profile was calibrated with, as far as it tells."""
    try:
        calibrated = given(serialization.read_profile(run.file("profile.json")).calibration.seen)
    except RunFolderError:  # none, or a damaged one, which says nothing about a file that is there to be measured
        calibrated = None
    return overlap.shared(calibrated, samples) if calibrated else SharedCounts()


def check_questions(
    budget: Budget, questions: QuestionSet, run: RunFolder, check: datasets.PictureCheck | None = None
) -> None:
    """Refuse, before any heavy work, data that an order or a budget cannot be measured on, and images that `check`
    raises ValueError for. Raises EvaluationError and CalibrationError."""
    if questions.source is None:
        raise EvaluationError(
            f"--max-kld, --min-accuracy, {MEASURED_OPTIONS} and --plan best need questions to measure on, and none "
            "were given.",
            "Give --eval SET: a .jsonl, a folder of images, or a Hub dataset id.",
        )
    cache = run.work / "eval" / "images"
    samples = datasets.read_questions(str(questions.source), questions.samples, questions.seed, cache, check)
    if scoring.choose_metrics(questions.metric, samples) is None and budget.min_accuracy is not None:
        raise EvaluationError(
            f"None of the questions of {questions.source} has an answer, so --min-accuracy cannot be measured.",
            'Add "answers" to the lines, or give --max-kld instead.',
        )
