"""Intervals of measured means, by resampling the samples. Seeds are fixed: the same numbers give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from luq_gguf.core.json_value import given
from luq_gguf.core.measurements import Difference, Estimate
from luq_gguf.core.speeds import Ratio, Samples

RESAMPLES = 10_000
LEAST = 8  # different samples: of fewer, resampling shows less doubt than there is, and none of one
NO_INTERVAL = f"no interval: fewer than {LEAST} samples"


def bootstrap(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of per-sample values [n] and its percentile bootstrap interval, which fewer than LEAST do not
    have. Raises ValueError for no samples."""
    if len(values) == 0:
        raise ValueError("no samples")
    if len(values) < LEAST:
        return Estimate(float(values.mean()), None, None)
    rng = np.random.default_rng(seed)
    n = len(values)
    # Means of resamples without holding RESAMPLES x n numbers at once.
    means = np.concatenate([values[rng.integers(0, n, (100, n))].mean(axis=1) for _ in range(RESAMPLES // 100)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def share(right: int, n: int, method: Literal["exact", "wilson"]) -> Estimate:
    """Return a share of n samples with its 95% interval: exact (Clopper and Pearson), or Wilson's, which is narrower
    and correct on average."""
    return Estimate(right / n, *share_bounds(right, n, method))


def share_bounds(right: int, n: int, method: Literal["exact", "wilson"]) -> tuple[float, float]:
    """Return the ends of the 95% interval that `share` gives."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(right, n).proportion_ci(method=method)
    return float(interval.low), float(interval.high)


def accuracy(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of scores between 0 and 1. Where all are 0 or all are 1, resampling shows no doubt, though n
    samples leave some: the exact interval of a share (Clopper and Pearson) is given there, and for fewer than LEAST
    samples that are each 0 or 1.
    """
    interval = bootstrap(scores, seed)
    alike = interval.low == interval.high and interval.low in (0.0, 1.0)
    if alike or (interval.low is None and np.isin(scores, (0.0, 1.0)).all()):
        return share(int(scores.sum()), len(scores), "exact")
    return interval


def paired_difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """Return the mean of second - first over the same samples, with its interval, which is far narrower than two
    separate intervals; of shares, values that are each 0 or 1, with McNemar's p-value."""
    if first.shape != second.shape:
        raise ValueError("paired values must come from the same samples")
    differences = second.astype(np.float64) - first.astype(np.float64)
    mean = bootstrap(differences, seed)
    found = Difference(mean.value, mean.low, mean.high, len(first))
    if not differences.any():  # no pair differs: as many samples as these leave this much doubt
        width = share_bounds(0, len(first), "exact")[1]
        found = Difference(0.0, -width, width, len(first))
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        return found
    return replace(found, p_value=mcnemar(int((differences < 0).sum()), int((differences > 0).sum())))


def mcnemar(worse: int, better: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how probable so uneven a split of the pairs that differ, or
    a more uneven one, would be if either direction were as probable as the other."""
    n, tail, term = worse + better, 0, 1
    for k in range(min(worse, better) + 1):  # whole numbers: binomial coefficients of thousands of pairs are no floats
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def ratio_of_means(first: Sequence[np.ndarray], second: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """Return mean(second) / mean(first) over all values of the same samples, resampling whole samples, because a
    sample's values are not independent."""
    if [len(values) for values in first] != [len(values) for values in second]:
        raise ValueError("paired values must come from the same samples")
    sums = np.array([[values.sum() for values in side] for side in (first, second)], np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(first), (RESAMPLES // 5, len(first)))
    ratios = sums[1][drawn].sum(axis=1) / sums[0][drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(float(sums[1].sum() / sums[0].sum()), float(low), float(high))


def paired_ratio(first: np.ndarray, second: np.ndarray) -> Ratio:
    """Return the geometric mean of second / first over pairs that were measured one after the other.

    The interval is of prediction: a second series of as many pairs has its mean there with 95% (Student's t on the
    logarithms; the difference of two such means has twice the variance of one).
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError("paired values must come from the same measurements")
    logs = np.log(second / first)
    middle, n = float(logs.mean()), len(logs)
    if n == 1:
        return Ratio(float(np.exp(middle)), None, None)
    from scipy.stats import t  # takes a second to import

    half = float(t.ppf(0.975, n - 1) * logs.std(ddof=1) * np.sqrt(2 / n))
    return Ratio(float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half)))


def mean_over_positions(values: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """Return the mean over all positions of samples [n_positions], with its interval by resampling whole samples:
    positions of one prompt are not independent. Fewer than LEAST samples have none."""
    sums, counts = np.array([v.sum() for v in values], np.float64), np.array([len(v) for v in values], np.float64)
    mean = float(np.concatenate(values).astype(np.float64).mean())
    if len(values) < LEAST:
        return Estimate(mean, None, None)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES // 100):
        drawn = rng.integers(0, len(values), (100, len(values)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(mean, float(low), float(high))


def between(low: float | None, high: float | None, form: str) -> str:
    """Format an interval for people, each end as `form` says: "0.75 to 0.83"; empty where there is none."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def with_interval(value: str, low: float | None, high: float | None, form: str) -> str:
    """Return a formatted value with its interval in brackets, or the reason why it has none."""
    return f"{value} ({between(low, high, form) or NO_INTERVAL})"


def in_points(difference: Difference) -> str:
    """Format a difference of shares for people: "-2.6 points (-4.1 to -1.2), 1,024 questions"."""
    value, *ends = (_points(share) for share in (difference.value, difference.low, difference.high))
    n = given(difference.n_questions)
    counted = "" if n is None else f", {n:,} question{'' if n == 1 else 's'}"
    return f"{value} points ({NO_INTERVAL if None in ends else ' to '.join(map(str, ends))}){counted}"


def _points(share: float | None) -> str | None:
    """A difference in percentage points; what rounds to zero has no minus."""
    return None if share is None else f"{round(100 * share, 1) + 0.0:+.1f}"


def format_ratio(ratio: Ratio | None) -> str:
    """Format a ratio for people: "0.79 (0.75 to 0.83)"; empty for None."""
    if ratio is None:
        return ""
    inside = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
    return f"{ratio.value:.2f}{inside}"


def spread_of(samples: Sequence[float]) -> Samples:
    """Return mean, standard deviation (0 for one sample), median and the samples themselves."""
    values = np.array(samples, np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Samples(float(values.mean()), deviation, float(np.median(values)), tuple(values.tolist()))
