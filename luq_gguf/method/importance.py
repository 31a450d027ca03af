"""Importance matrices as values: adding them up and reading means from them. File formats are llamacpp's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luq_gguf.core.profile_facts import NeverActive
from luq_gguf.core.types import ImportanceMatrix

FLOOR = 1e-6  # of a tensor's mean importance: the least that a column gets


def merge(parts: Sequence[ImportanceMatrix]) -> ImportanceMatrix:
    """Return the importance over all tokens of all parts: sums and counts are added up.

    Raises ValueError where a tensor's shape differs between parts.
    """
    in_sum2: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for part in parts:
        for name, sums in part.in_sum2.items():
            if name in in_sum2 and in_sum2[name].shape != sums.shape:
                raise ValueError(f"{name} has the shape {sums.shape} in one part and {in_sum2[name].shape} in another")
            in_sum2[name] = in_sum2[name] + sums if name in in_sum2 else sums.copy()
            counts[name] = counts[name] + part.counts[name] if name in counts else part.counts[name].copy()
    return ImportanceMatrix(in_sum2, counts, sum(part.n_samples for part in parts))


def mean_squares(matrix: ImportanceMatrix, name: str) -> np.ndarray:
    """Return the mean of x^2 per input column, float64 [n_mat, n_in], by which llama-quantize weighs errors.

    An expert without tokens has weight 1 everywhere, as there (tools/quantize/quantize.cpp).
    """
    counts = matrix.counts[name][:, None]
    return np.where(counts > 0, matrix.in_sum2[name] / np.maximum(counts, 1), 1.0)


def floored(matrix: ImportanceMatrix) -> ImportanceMatrix:
    """Return the matrix with no column below FLOOR times its tensor's mean, so that no weight counts for nothing: where
    all columns of a block have importance 0, llama-quantize writes zeros (Q3_K, Q6_K) or any values (IQ1 to IQ3).

    A tensor of zeros gets the same importance everywhere. Experts without tokens stay as they are (`mean_squares`).
    """
    return ImportanceMatrix(
        {name: _floored(sums, matrix.counts[name]) for name, sums in matrix.in_sum2.items()},
        matrix.counts,
        matrix.n_samples,
    )


def _floored(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    reached = counts > 0
    if not reached.any():
        return sums
    mean = float((sums[reached] / counts[reached, None]).mean())
    return np.asarray(np.maximum(sums, counts[:, None] * (FLOOR * mean if mean > 0 else 1.0)))


def never_active(matrix: ImportanceMatrix) -> NeverActive:
    """Return the columns whose inputs were 0 for all tokens, and the experts that no token reached."""
    columns = {name: int((sums[matrix.counts[name] > 0] == 0).sum()) for name, sums in sorted(matrix.in_sum2.items())}
    experts = {name: tuple(np.flatnonzero(counts == 0).tolist()) for name, counts in sorted(matrix.counts.items())}
    return NeverActive(
        {name: count for name, count in columns.items() if count},
        {name: numbers for name, numbers in experts.items() if numbers},
    )
