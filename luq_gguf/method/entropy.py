"""Entropy of a layer's output activations (paper, section "The method", step 1).

Whole token vectors are clustered by K-means into K clusters; with p_k the share of tokens in cluster k the entropy is
H = -sum p_k log2 p_k, in bits, at most log2 K. The estimate depends on the K-means seed, so it is repeated.
"""

from __future__ import annotations

import numpy as np

K = 100


def histogram_entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits of a histogram: counts [k], non-negative with a positive sum."""
    total = counts.sum()
    if total <= 0:
        raise ValueError("the histogram is empty")
    shares = counts[counts > 0] / total
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no negative zero


def mean_and_spread(entropies_bits: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation (of the sample; 0 for one seed) over seeds [n_seeds]."""
    spread = float(np.std(entropies_bits, ddof=1)) if len(entropies_bits) > 1 else 0.0
    return float(np.mean(entropies_bits)), spread


def variants(first_half: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Return other ways to cluster the same layer, to see whether the ranking of layers depends on them: which tokens,
    int [n], and K.

    first_half bool [n_tokens], by calibration samples. Halves of the data, other K, fewer tokens; a way that has too
    few tokens is left out.
    """
    tokens = np.arange(len(first_half))
    ways = {
        "half-a": (tokens[first_half], K),
        "half-b": (tokens[~first_half], K),
        "k-50": (tokens, 50),
        "k-200": (tokens, 200),
        "tokens-half": (tokens[::2], K),
        "tokens-quarter": (tokens[::4], K),
    }
    return {name: (rows, k) for name, (rows, k) in ways.items() if len(rows) >= k}
