"""The order in which decoder layers become low-bit (paper, section "The method", step 2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from luq_gguf.values import LayerEntropy

RANKINGS = ("entropy", "entropy-desc", "random")


def rank(layers: Sequence[LayerEntropy], ranking: str, seed: int = 0) -> tuple[int, ...]:
    """Layer numbers, the one to quantize first in front. Equal entropies are ordered by depth.

    "entropy": lowest first, the paper's rule; "entropy-desc": its opposite; "random": a seeded shuffle.
    """
    if ranking == "random":
        numbers = np.array([layer.layer for layer in layers])
        return tuple(int(n) for n in np.random.default_rng(seed).permutation(numbers))
    sign = {"entropy": 1, "entropy-desc": -1}[ranking]
    return tuple(layer.layer for layer in sorted(layers, key=lambda item: (sign * item.bits, item.layer)))


def rank_by(figures: Mapping[int, float]) -> tuple[int, ...]:
    """Layer numbers by a measured figure, the smallest in front; equal ones by depth."""
    return tuple(sorted(figures, key=lambda layer: (figures[layer], layer)))


def near_ties(layers: Sequence[LayerEntropy], order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Neighbours in the order whose entropies differ by no more than the spread of their difference over seeds."""
    by_number = {layer.layer: layer for layer in layers}
    ties = []
    for first, second in itertools.pairwise(order):
        a, b = by_number[first], by_number[second]
        if abs(a.bits - b.bits) <= np.hypot(a.spread_bits, b.spread_bits):
            ties.append((first, second))
    return tuple(ties)
