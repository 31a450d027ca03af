"""The most low layers that still meet a bound on quality (the paper's performance budget), found on real files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.measurements import Metrics
from luq_gguf.core.types import Budget


@dataclass(frozen=True)
class Attempt:
    """A number of low layers, the measured figure, and whether it meets the bound."""

    n_low: int
    figure: float
    meets: bool


def figure_of(budget: Budget, metrics: Metrics) -> float:
    """Return the figure that a quality budget bounds."""
    if budget.max_kld is not None:
        return metrics.divergence.mean
    if not metrics.accuracy:
        raise BudgetError("--min-accuracy needs questions with answers.", 'Give --eval a .jsonl with "answers".')
    return metrics.accuracy.value


def meets(budget: Budget, figure: float) -> bool:
    """Return whether a figure is within the bound."""
    if budget.max_kld is not None:
        return figure <= budget.max_kld
    return budget.min_accuracy is not None and figure >= budget.min_accuracy


def most_low_layers(budget: Budget, n_layers: int, measure: Callable[[int], float]) -> tuple[int, tuple[Attempt, ...]]:
    """Return the largest number of low layers that meets the bound, and everything that was tried.

    By bisection; where the figures tried contradict each other (more low layers, yet better), by trying all from the
    top down. Raises BudgetError with the figure of no low layers where not even that meets the bound.
    """
    tried: dict[int, Attempt] = {}

    def attempt(n: int) -> bool:
        if n not in tried:
            figure = measure(n)
            tried[n] = Attempt(n, figure, meets(budget, figure))
        return tried[n].meets

    if attempt(n_layers):
        return n_layers, _in_order(tried)
    low, high = (0, n_layers) if attempt(0) else (-1, n_layers)
    while low >= 0 and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) else (low, middle)
    if low < 0 or not _is_monotone(budget, _in_order(tried)):
        low = next((n for n in range(n_layers - 1, -1, -1) if attempt(n)), -1)
    if low < 0:
        best = min(tried.values(), key=lambda t: t.figure if budget.max_kld is not None else -t.figure)
        bound = (
            f"--max-kld {budget.max_kld:g}" if budget.max_kld is not None else f"--min-accuracy {budget.min_accuracy:g}"
        )
        raise BudgetError(
            f"No number of low layers meets {bound}: the best is {best.figure:.3g}, "
            f"with {best.n_low} low layer{'s' * (best.n_low != 1)}.",
            "Loosen the bound, or choose a larger --high type.",
        )
    return low, _in_order(tried)


def _in_order(tried: dict[int, Attempt]) -> tuple[Attempt, ...]:
    return tuple(tried[n] for n in sorted(tried))


def _is_monotone(budget: Budget, tried: Sequence[Attempt]) -> bool:
    sign = 1 if budget.max_kld is not None else -1
    figures = [sign * t.figure for t in tried]
    return all(a <= b for a, b in itertools.pairwise(figures))
