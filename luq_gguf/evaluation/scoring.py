"""Chooses the metric of each question, and scores answers with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET, UnsetType

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import EvalData, Sample
from luq_gguf.method.metrics import vqa


def choose_metrics(metric: str, samples: Sequence[Sample]) -> tuple[str | None, ...] | None:
    """Return the metric that scores the answer to each question (None: it has no answers); None where no question is
    scored, or for "none".

    "auto" looks at each question by itself (`vqa.automatic`). Raises EvaluationError if a metric was asked for and
    answers are missing, or are not what it compares with.
    """
    with_answers = [sample for sample in samples if sample.answers]
    if not samples or metric == "none" or (metric == "auto" and not with_answers):
        return None
    if metric == "auto":
        return tuple(vqa.automatic(s.prompt, s.answers) if s.answers else None for s in samples)
    without = len(samples) - len(with_answers)
    if without:
        raise EvaluationError(
            f"{without} of {len(samples)} questions have no answers, so --metric {metric} has nothing to compare with.",
            'Add "answers" to each line, or leave --metric out.',
        )
    chosen = vqa.METRICS[metric]
    unfit = next((sample for sample in samples if not chosen.accepts(sample.answers)), None)
    if unfit:
        answer = next((text for text in unfit.answers if not chosen.accepts((text,))), unfit.answers[0])
        raise EvaluationError(
            f'--metric {metric} compares with {chosen.wants}, and the answer to "{unfit.prompt[:60]}" is '
            f'"{answer[:60]}".',
            "Choose another --metric, or leave it out.",
        )
    return (metric,) * len(samples)


def metric_name(chosen: Sequence[str | None] | None) -> str | None:
    """Return the metrics that are used, in the order of METRICS: "exact", or "vqa and exact"."""
    return " and ".join(name for name in vqa.METRICS if name in chosen) if chosen else None


def tell_repeated(data: EvalData, reporter: Reporter) -> None:
    """Tell the reporter how many questions repeat others."""
    n = len(data.samples)
    if data.n_repeated:
        reporter.info(f"{data.n_repeated} of {n + data.n_repeated} questions repeat others: each counts once")


def tell(chosen: Sequence[str | None] | None, data: EvalData, reporter: Reporter) -> None:
    """Tell the reporter what scores of these questions do not say by themselves."""
    if not data.samples:
        return
    tell_repeated(data, reporter)
    without = sum(not sample.answers for sample in data.samples)
    if without:
        reporter.info(f"{without} of {len(data.samples)} questions have no answers: they do not count for accuracy")
    few = sum(len(s.answers) < vqa.PEOPLE for s, name in zip(data.samples, chosen or (), strict=False) if name == "vqa")
    if few:
        reporter.info(f"{few} questions have fewer than {vqa.PEOPLE} answers: any of them counts as right")


def scores(answers: Sequence[str], data: EvalData, chosen: Sequence[str | None] | None) -> np.ndarray | None:
    """Return the scores of the questions that have answers, float64 [n]; None where none are scored."""
    if chosen is None:
        return None
    asked = zip(answers, data.samples, chosen, strict=True)
    return np.array([vqa.METRICS[name].score(answer, sample.answers) for answer, sample, name in asked if name])


def f1_of_yes(answers: Sequence[str], data: EvalData, chosen: Sequence[str | None] | None) -> float | UnsetType:
    """Return F1 of "yes" for the metric yes-no, else UNSET."""
    if chosen is None or "yes-no" not in chosen:
        return UNSET
    return vqa.f1_of_yes(answers, ["yes" if vqa.expects_yes(sample.answers) else "no" for sample in data.samples])
