"""The scores of questions as JSON has them: one line, "1 0 0.3", however many there are.

What files on disk say of a file's answers is enough to pair it, question by question, with any other file that answered
the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable


def packed(scores: Iterable[float]) -> str:
    """Return scores from 0 to 1 as text with spaces between them; reading it gives the same numbers."""
    return " ".join(repr(float(score)).removesuffix(".0") for score in scores)


def unpacked(text: str) -> tuple[float, ...]:
    """Return the scores of a text. Raises ValueError where one of them is not a number from 0 to 1."""
    scores = tuple(map(float, text.split()))
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError("a score is not from 0 to 1")
    return scores


def check(text: str | None) -> None:
    """Raise ValueError as `unpacked` does; None is what was not measured."""
    if text is not None:
        unpacked(text)
