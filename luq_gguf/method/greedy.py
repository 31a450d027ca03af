"""Low layers chosen one after another by what each costs given those that are low already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

WIDTH = 4  # candidates a step: the layers of lowest entropy that are left


def most_files(n_layers: int, n_low: int) -> int:
    """Return how many files `steps` measures at most for so many low layers."""
    steps = [min(WIDTH, n_layers - step) for step in range(n_low)]
    return sum(steps) + max(0, n_low - 1)  # the paper's own choices of more than one layer


def steps(order: Sequence[int], measure: Callable[[tuple[int, ...]], float]) -> Iterator[tuple[int, ...]]:
    """Yield the layers that are low, from none to all: each step adds the best of the next few candidates.

    `order` is lowest entropy first; `measure` gives the KLD of a file with these layers low. At every number of layers
    the front of the order itself is measured too, and taken where it is better: no step is worse than the paper's
    choice on the data it was measured on.
    """
    chosen: tuple[int, ...] = ()
    yield chosen
    while len(chosen) < len(order):
        left = [layer for layer in order if layer not in chosen][:WIDTH]
        candidates = [(*chosen, layer) for layer in left]
        front = tuple(order[: len(chosen) + 1])
        if set(front) not in map(set, candidates):
            candidates.append(front)
        chosen = min(candidates, key=measure)
        yield chosen
