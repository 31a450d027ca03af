"""Importance matrices as values: adding them up and reading means from them. File formats are llamacpp's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luq_gguf.core.types import ImportanceMatrix


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
