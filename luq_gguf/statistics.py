"""Intervals of measured means, by resampling the samples. Seeds are fixed: the same numbers give the same interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of per-sample values [n] and its percentile bootstrap interval. Raises ValueError for no samples."""
    if len(values) == 0:
        raise ValueError("no samples")
    rng = np.random.default_rng(seed)
    n = len(values)
    # Means of resamples without holding RESAMPLES x n numbers at once.
    means = np.concatenate([values[rng.integers(0, n, (100, n))].mean(axis=1) for _ in range(RESAMPLES // 100)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def accuracy(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of scores between 0 and 1. Where all are alike at an end, resampling shows no doubt, though n samples leave
    some: there the exact interval of a share (Clopper and Pearson) is given.
    """
    found = bootstrap(scores, seed)
    doubt = 1 - 0.025 ** (1 / len(scores))
    if found.low == found.high == 1.0:
        return Estimate(1.0, 1 - doubt, 1.0)
    if found.low == found.high == 0.0:
        return Estimate(0.0, 0.0, doubt)
    return found


def paired_difference(one: np.ndarray, other: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of other - one over the same samples, with its interval: far narrower than two intervals apart."""
    if one.shape != other.shape:
        raise ValueError("paired values are of the same samples")
    found = bootstrap(other.astype(np.float64) - one.astype(np.float64), seed)
    if found.low == found.high == 0.0:  # no pair differs: as many samples as these leave this much doubt
        doubt = 1 - 0.025 ** (1 / len(one))
        return Estimate(0.0, -doubt, doubt)
    return found
