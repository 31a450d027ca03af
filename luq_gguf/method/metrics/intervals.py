"""Intervals of measured means, by resampling the samples. Seeds are fixed: the same numbers give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from luq_gguf.core.measurements import Estimate
from luq_gguf.core.speeds import Ratio, Samples

RESAMPLES = 10_000


def bootstrap(values: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of per-sample values [n] and its percentile bootstrap interval. Raises ValueError for no
    samples."""
    if len(values) == 0:
        raise ValueError("no samples")
    rng = np.random.default_rng(seed)
    n = len(values)
    # Means of resamples without holding RESAMPLES x n numbers at once.
    means = np.concatenate([values[rng.integers(0, n, (100, n))].mean(axis=1) for _ in range(RESAMPLES // 100)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def share(right: int, n: int, method: Literal["exact", "wilson"]) -> Estimate:
    """Return a share of n samples with its 95% interval: exact (Clopper and Pearson), or Wilson's, which is narrower
    and correct on average."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(right, n).proportion_ci(method=method)
    return Estimate(right / n, float(interval.low), float(interval.high))


def accuracy(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of scores between 0 and 1. Where all are 0 or all are 1, resampling shows no doubt, though n
    samples leave some: the exact interval of a share (Clopper and Pearson) is given there.
    """
    interval = bootstrap(scores, seed)
    if interval.low == interval.high and interval.low in (0.0, 1.0):
        return share(int(interval.low) * len(scores), len(scores), "exact")
    return interval


def paired_difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Estimate:
    """Return the mean of second - first over the same samples, with its interval, which is far narrower than two
    separate intervals."""
    if first.shape != second.shape:
        raise ValueError("paired values must come from the same samples")
    interval = bootstrap(second.astype(np.float64) - first.astype(np.float64), seed)
    if interval.low == interval.high == 0.0:  # no pair differs: as many samples as these leave this much doubt
        width = share(0, len(first), "exact").high
        return Estimate(0.0, -width, width)
    return interval


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
