"""Racing: a file is measured question by question beside one that was measured on all of them, until it can no longer
be the better one.

Questions are paired: on the same ones, two files of a model differ far less than one file does between questions. What
a file's divergence on all questions will be is that of the rival times the ratio of both on the questions so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST = 4  # questions that an error is estimated from
FEW = 0.25  # of the questions, for a file that only teaches
SURE = 0.98  # probability with which a file that is dropped is not the better one, at one look


@dataclass(frozen=True)
class Aim:
    """What a file is measured for: to teach, on a `few` questions; or to be the best, as long as it may still be better
    than the file `to_beat`, by its number; without one, on all questions."""

    to_beat: tuple[int, ...] | None = None
    few: bool = False


@dataclass(frozen=True)
class Measurement:
    """A file's KL divergence in nats, and its relative standard error where it is an estimate from some questions; 0
    where all were measured."""

    kld: float
    error: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Return whether all questions were measured."""
        return self.error == 0


def order(sums: np.ndarray) -> tuple[int, ...]:
    """Return the order of questions whose beginnings foretell files' divergence on all questions best.

    `sums` [n_files, n_questions] are divergences of whole files, in nats, summed over each question's positions. Every
    next question is the one with which the logarithms of the files' shares of their total differ least; of equal ones,
    the first. With fewer than two files it is the order of the questions.
    """
    n_files, n = sums.shape
    if n_files < 2:
        return tuple(range(n))
    scaled = np.maximum(sums, 1e-12)
    scaled = scaled / scaled.sum(axis=1, keepdims=True)
    chosen, left, so_far = [], list(range(n)), np.zeros((n_files, 1))
    while left:
        spread = np.log(so_far + scaled[:, left]).std(axis=0)
        at = int(np.argmin(np.round(spread, 9)))
        so_far = so_far + scaled[:, [left[at]]]
        chosen.append(left.pop(at))
    return tuple(chosen)


def estimate(measured: Sequence[float], rival: np.ndarray) -> Measurement:
    """Return the divergence on all questions, as a sum in nats, of a file of which the first are `measured`.

    `rival` [n_questions] are the sums of a whole file in the same order. The error is that of a ratio estimate from
    some of finitely many pairs; with fewer than LEAST of them it is infinite.
    """
    part, n = np.array(measured, np.float64), len(rival)
    m = len(part)
    if m == n:
        return Measurement(float(part.sum()))
    base = float(rival[:m].sum())
    if m < LEAST or base <= 0 or part.sum() <= 0:
        return Measurement(float(rival.sum()), float("inf"))
    ratio = float(part.sum()) / base
    residuals = part - ratio * rival[:m]
    error = float(np.sqrt(m / (m - 1) * (residuals**2).sum() * (1 - m / n))) / base
    return Measurement(ratio * float(rival.sum()), max(error / ratio, 1e-6))


def goes_on(measured: Sequence[float], rival: np.ndarray, aim: Aim) -> bool:
    """Return whether another question is to be measured: of a file that teaches until it has FEW, of one that races as
    long as it may be better than the rival (a one-sided t test of the pairs, at SURE)."""
    m, n = len(measured), len(rival)
    if m >= n or m < LEAST:
        return m < n
    foretold = estimate(measured, rival)
    if not np.isfinite(foretold.error):  # nothing to divide by yet
        return True
    if aim.few:
        return m < FEW * n
    width = float(stats.t.ppf(SURE, m - 1))  # the spread of a few pairs is not well known either
    return foretold.kld * (1 - width * foretold.error) <= float(rival.sum())
