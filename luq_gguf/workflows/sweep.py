"""A sweep: what becomes of a model as more of its layers become low, in several orders, and what uniform files do.

An interrupted sweep goes on where it stopped, and a second one with more orders measures only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.measurements import SweepPoint
from luq_gguf.core.reporter import Listener
from luq_gguf.core.types import Profile
from luq_gguf.method import greedy, ranking
from luq_gguf.planning.meter import Meter, order_by_kld
from luq_gguf.run import serialization
from luq_gguf.run.session import Session

ORDERS = ("entropy", "entropy-desc", "random", "kld")
ON_REQUEST = ("greedy", "best")  # these cost more than all the others; best is added by `planning`
UNIFORM = ("IQ1_M", "IQ2_XXS", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "Q4_K_M")


@dataclass(frozen=True)
class SweepRequest:
    """Which numbers of low layers (None: all), in which orders, how many random ones, against which uniform files;
    layers are `low` or have the types of the file type `high`."""

    counts: tuple[int, ...] | None = None
    orders: tuple[str, ...] = ORDERS
    seeds: int = 1
    uniform: tuple[str, ...] = UNIFORM
    low: str = "IQ1_M"
    high: str = "Q4_K_M"


def sweep(session: Session, profile: Profile, meter: Meter, request: SweepRequest) -> dict[str, Any]:
    """All points, written to sweep.json after each one."""
    run, listener, n = session.run, session.listener, session.door.tensors.n_layers
    counts = sorted(set(request.counts if request.counts is not None else range(n + 1)))
    if counts and counts[-1] > n:
        raise BudgetError(f"--low-layers {counts[-1]} is impossible: the model has {n} decoder layers.", f"0 to {n}.")
    done = 0

    def tick(total: int) -> None:
        nonlocal done
        done += 1
        listener.progress("points", done, total)

    ranked = {(order, seed): ranking.rank(profile.layers, order, seed) for order, seed in _named(request)}
    orders = {name: [order[:count] for count in counts] for name, order in ranked.items()}
    if "greedy" in request.orders:
        orders["greedy", 0] = _greedy(meter, ranking.rank(profile.layers, "entropy"), counts, listener)
    chosen = {frozenset(layers) for sets in orders.values() for layers in sets}
    alone = list(range(n)) if "kld" in request.orders else []
    total = len(chosen) + len(alone) + len(request.uniform) + 1
    if alone:
        total += len({count for count in counts if 1 < count < n})
        order = order_by_kld(meter, n, lambda: tick(total))
        orders["kld", 0] = [order[:count] for count in counts]
    points: list[dict[str, Any]] = []
    seen: set[frozenset[int]] = set()

    def add(point: SweepPoint) -> None:
        told = serialization.to_json(point)
        if point.order == "uniform F16":  # its keys have always had this order
            told["metrics"] = told.pop("metrics")
        points.append(told)
        content = {"points": points, "conditions": meter.conditions()}
        serialization.write_json(run.file("sweep.json"), content)

    for (name, seed), sets in orders.items():
        for layers in sets:
            add(SweepPoint.of(name, meter.low(layers), seed=seed, low_layers=tuple(layers)))
            if frozenset(layers) not in seen:
                seen.add(frozenset(layers))
                tick(total)
    for ftype in request.uniform:
        add(SweepPoint.of(f"uniform {ftype}", meter.uniform(ftype)))
        tick(total)
    add(SweepPoint.of("uniform F16", meter.sixteen_bit()))
    tick(total)
    found: dict[str, Any] = serialization.read_json(run.file("sweep.json"), "sweep")
    return found


def _greedy(meter: Meter, order: Sequence[int], counts: Sequence[int], listener: Listener) -> list[tuple[int, ...]]:
    """The greedy choices of these numbers of layers."""
    most, done = max(1, greedy.most_files(len(order), max(counts, default=0))), itertools.count(1)

    def measure(layers: tuple[int, ...]) -> float:
        kld = meter.low(layers).metrics.divergence.mean
        listener.progress("greedy steps", next(done), most)
        return kld

    found = list(itertools.islice(greedy.steps(order, measure), max(counts, default=0) + 1))
    return [found[count] for count in counts]


def _named(request: SweepRequest) -> list[tuple[str, int]]:
    found = []
    for order in request.orders:
        if order not in ("kld", *ON_REQUEST):
            found += [(order, seed) for seed in range(request.seeds if order == "random" else 1)]
    return found
