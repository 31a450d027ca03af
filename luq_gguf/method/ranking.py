"""The order in which decoder layers become low-bit (paper, section "The method", step 2)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from luq_gguf.core.types import LayerEntropy


def by_entropy(layers: Sequence[LayerEntropy], sign: int) -> tuple[int, ...]:
    """Return layer numbers by entropy: `sign` 1 is lowest first, the paper's rule, and -1 its opposite. Ties are
    ordered by depth."""
    return tuple(layer.layer for layer in sorted(layers, key=lambda item: (sign * item.bits, item.layer)))


def shuffled(layers: Sequence[LayerEntropy], seed: int) -> tuple[int, ...]:
    """Return layer numbers as a seed shuffles them."""
    numbers = np.array([layer.layer for layer in layers])
    return tuple(int(n) for n in np.random.default_rng(seed).permutation(numbers))


def rank_by(figures: Mapping[int, float]) -> tuple[int, ...]:
    """Return layer numbers by a measured figure, smallest first; ties are ordered by depth."""
    return tuple(sorted(figures, key=lambda layer: (figures[layer], layer)))


def without_entropies(n_layers: int) -> tuple[LayerEntropy, ...]:
    """Return layers of which nothing is known, all alike: an order that does not go by entropy can be made of them."""
    return tuple(LayerEntropy(layer, 0.0, 0.0, 0, {}) for layer in range(n_layers))


def near_ties(layers: Sequence[LayerEntropy], order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return neighbours in the order whose entropies differ by no more than the spread of their difference over
    seeds."""
    by_number = {layer.layer: layer for layer in layers}
    ties = []
    for first, second in itertools.pairwise(order):
        a, b = by_number[first], by_number[second]
        if abs(a.bits - b.bits) <= np.hypot(a.spread_bits, b.spread_bits):
            ties.append((first, second))
    return tuple(ties)


def agreement(rankings: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return Kendall's tau between ways of estimating the entropies: 1 where they rank all layers alike, 0 by chance.

    "seeds": the mean over all pairs of K-means seeds; "halves": between the halves of the data; others: between that
    way and the mean over seeds.
    """
    seeds = [np.array(bits) for way, bits in rankings.items() if way.startswith("seed-")]
    if not seeds or len(seeds[0]) < 2:
        return {}
    mean = np.mean(seeds, axis=0)
    taus: dict[str, float] = {}
    if len(seeds) > 1:
        taus["seeds"] = float(np.mean([tau(a, b) for a, b in itertools.combinations(seeds, 2)]))
    if "half-a" in rankings and "half-b" in rankings:
        taus["halves"] = tau(rankings["half-a"], rankings["half-b"])
    others = [way for way in rankings if not way.startswith(("seed-", "half-"))]
    return taus | {way: tau(mean, rankings[way]) for way in others}


def tau(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Return Kendall's tau between two estimates of the layers' entropies."""
    from scipy.stats import kendalltau  # takes a second to import

    value = float(kendalltau(first, second).statistic)
    return 0.0 if np.isnan(value) else value  # all entropies alike rank nothing


def unsettled(
    rankings: Mapping[str, Sequence[float]], n_low: int, sign: int = 1, kept: Collection[int] = ()
) -> dict[int, float]:
    """Return layers that are among the first `n_low` in some ways of estimating and not in others, with the share of
    those ways.

    `sign` is that of the order by entropy (`by_entropy`), 0 for other orders, of which nothing is unsettled;
    `kept` layers never become low.
    """
    if not sign or not rankings:
        return {}
    chosen = []
    for bits in rankings.values():
        order = sorted(set(range(len(bits))) - set(kept), key=lambda layer: (sign * bits[layer], layer))
        chosen.append(set(order[:n_low]))
    n_layers = len(next(iter(rankings.values())))
    shares = {layer: sum(layer in low for low in chosen) / len(chosen) for layer in range(n_layers)}
    return {layer: share for layer, share in shares.items() if 0 < share < 1}
