"""Differences between files over the same questions, from what was kept of each: paired question by question."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luq_gguf.core import question_scores
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Difference, EvalResult, FileDifference, Metrics
from luq_gguf.method.metrics import intervals


def between(first: EvalResult, second: EvalResult) -> FileDifference:
    """Return how the accuracy of the second file differs from the first's. Raises EvaluationError where they were not
    asked the same questions in the same order and way, or their scores were not kept."""
    if why := why_not(first, second):
        raise EvaluationError(
            f"{first.file} and {second.file} cannot be paired question by question: {why}.",
            "Measure both with luq-gguf eval on the same --data, with the same options.",
        )
    whole = difference(given(first.scores) or "", given(second.scores) or "")
    ours, theirs = given(first.splits) or {}, given(second.splits) or {}
    same = bool(ours) and first.splits_sha256 == second.splits_sha256
    both = [name for name in ours if name in theirs] if same else []
    packed = {name: (given(ours[name].scores), given(theirs[name].scores)) for name in both}
    splits = {name: difference(a, b) for name, (a, b) in packed.items() if a and b and _n(a) == _n(b)}
    found = FileDifference(first.file, second.file, whole)
    return replace(found, splits=splits) if splits else found


def why_not(first: EvalResult, second: EvalResult) -> str | None:
    """Return why two measurements are not of the same questions, asked alike; None where they are."""
    unscored = next((result for result in (first, second) if not given(result.scores)), None)
    if unscored:
        return f"the scores of {unscored.file} were not kept"
    conditions = first.conditions, second.conditions
    asked = {(result.conditions.data_sha256, _n(str(result.scores))) for result in (first, second)}
    if len(asked) > 1:
        return "they were measured on other questions or texts, or in another order"
    if first.metric != second.metric:
        return f"one is scored by {first.metric} and the other by {second.metric}"
    if len({c.max_tokens for c in conditions}) > 1:
        return "their answers were of at most {} and {} tokens".format(*(c.max_tokens for c in conditions))
    if len({c.has_fitted_images for c in conditions}) > 1:
        return "only one of them was shown fitted pictures"
    return None


def all_between(results: Sequence[EvalResult]) -> list[FileDifference]:
    """Return the differences of every two files that can be paired, each the later minus the earlier."""
    pairs = itertools.combinations(results, 2)
    return [between(first, second) for first, second in pairs if why_not(first, second) is None]


def of_points(first: Metrics, second: Metrics) -> Difference | None:
    """Return how the accuracy of the second file of one sweep differs from the first's; None where their scores were
    not kept."""
    scores = given(first.scores), given(second.scores)
    return None if scores[0] is None or scores[1] is None else difference(scores[0], scores[1])


def _n(scores: str) -> int:
    return len(scores.split())


def difference(first: str, second: str) -> Difference:
    """Return the mean of second - first over the same questions, whose scores are as `question_scores` has them. Raises
    ValueError where there are more of one, or none."""
    before, after = (np.array(question_scores.unpacked(scores)) for scores in (first, second))
    return intervals.paired_difference(before, after)
