"""A sweep: how a model changes as more of its layers become low, in several orders, next to uniform files.

An interrupted sweep resumes where it stopped, and a second one with more orders measures only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from luq_gguf.core.errors import BudgetError, CalibrationError, CheckpointError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.sweeps import Sweep, SweepPoint
from luq_gguf.core.types import LayerEntropy, Profile
from luq_gguf.method import uniform
from luq_gguf.method.orders import FORETOLD, MEASURED, ORDERS, SWEPT, UNMEASURED, Measure, is_seeded, rank
from luq_gguf.planning import foretold, unprofiled
from luq_gguf.planning.meter import Meter
from luq_gguf.run import serialization
from luq_gguf.run.session import Session


@dataclass(frozen=True)
class SweepRequest:
    """Which numbers of low layers (None: all), in which orders, how many random ones, against which uniform files;
    layers are `low` or have the types of the file type `high`.

    Points of "best", which is not an order of layers, are added by `planning.stage`. Raises BudgetError for an order
    that does not exist.
    """

    counts: tuple[int, ...] | None = None
    orders: tuple[str, ...] = SWEPT
    seeds: int = 1
    uniform: tuple[str, ...] = uniform.SWEPT
    low: str = "IQ1_M"
    high: str = "Q4_K_M"

    def __post_init__(self) -> None:
        for name in self.orders:
            if name not in (*ORDERS, "best"):
                raise BudgetError(f"There is no order of layers named {name}.", f"Give {', '.join(ORDERS)} or best.")


def sweep(session: Session, profile: Profile | None, meter: Meter, request: SweepRequest) -> Sweep:
    """Measure all points, and write sweep.json after each one. Raises BudgetError."""
    layers = unprofiled.layers_of(session.spec, profile)
    run, reporter, n = session.run, session.reporter, session.spec.tensors.n_layers
    counts = sorted(set(request.counts if request.counts is not None else range(n + 1)))
    if counts and counts[-1] > n:
        raise BudgetError(
            f"--low-layers {counts[-1]} is impossible: the model has {n} decoder layers.", f"Give 0 to {n}."
        )
    done = 0

    def tick(total: int) -> None:
        nonlocal done
        done += 1
        reporter.progress("points", done, total)

    measured_orders = [name for name in ORDERS if name in request.orders and name in MEASURED]
    orders = {name: _sets(layers, *name, counts) for name in _unmeasured(request)}
    for name in (name for name in FORETOLD if name in request.orders):
        if measure_alone := _foretold(session, profile, name, request):
            orders[name, 0] = _sets(layers, name, 0, counts, measure_alone)
    for name in (name for name in measured_orders if ORDERS[name].grows):
        orders[name, 0] = _sets(layers, name, 0, counts, _steps_measured(meter, name, n, counts, reporter))
    chosen = {frozenset(low) for sets in orders.values() for low in sets}
    total = len(chosen) + len(request.uniform) + 1
    finished_orders = [name for name in measured_orders if not ORDERS[name].grows]
    total += sum(
        _most_files(name, n, n) + len({count for count in counts if 1 < count < n}) for name in finished_orders
    )

    def measure(layers: tuple[int, ...]) -> float:
        kld = meter.kld(layers)
        tick(total)
        return kld

    for name in finished_orders:
        orders[name, 0] = _sets(layers, name, 0, counts, measure)
    points: list[SweepPoint] = []
    seen: set[frozenset[int]] = set()

    def add(point: SweepPoint) -> None:
        points.append(point)
        serialization.write_json(run.file("sweep.json"), Sweep(tuple(points), meter.conditions()).to_json())

    for (name, seed), sets in orders.items():
        for low in sets:
            add(SweepPoint.of(name, meter.low(low), seed=seed, low_layers=tuple(low)))
            if frozenset(low) not in seen:
                seen.add(frozenset(low))
                tick(total)
    for ftype in request.uniform:
        add(SweepPoint.of(uniform.name_of(ftype), meter.uniform(ftype)))
        tick(total)
    add(SweepPoint.of(uniform.REFERENCE, meter.sixteen_bit()))
    tick(total)
    return Sweep(tuple(points), meter.conditions())


def _foretold(session: Session, profile: Profile | None, name: str, request: SweepRequest) -> Measure | None:
    """What an order goes by that gradients foretell; None, which is told, where they are not to be had and there are
    other orders. Raises children of LuqError where there are none."""
    try:
        return foretold.costs_alone(session, profile, name)
    except (BudgetError, CalibrationError, CheckpointError) as error:
        if request.orders == (name,):
            raise
        session.reporter.info(f"the order {name} is left out: {error.message}")
        return None


def _most_files(name: str, n_layers: int, n_low: int) -> int:
    measured = ORDERS[name].n_files
    return measured(n_layers, n_low) if measured else 0


def _steps_measured(meter: Meter, name: str, n_layers: int, counts: Sequence[int], reporter: Reporter) -> Measure:
    """Measures files for an order that grows, with progress of its own: how many they are is not known before."""
    most, done = max(1, _most_files(name, n_layers, max(counts, default=0))), itertools.count(1)

    def measure(layers: tuple[int, ...]) -> float:
        kld = meter.kld(layers)
        reporter.progress(f"{name} steps", next(done), most)
        return kld

    return measure


def _sets(
    layers: Sequence[LayerEntropy], name: str, seed: int, counts: Sequence[int], measure: Measure | None = None
) -> list[tuple[int, ...]]:
    """The layers that an order has low at these numbers of layers."""
    if measure is None:
        ranked = rank(layers, name, seed)
        return [ranked[:count] for count in counts]
    steps = ORDERS[name].steps(layers, seed, measure)
    choices = list(itertools.islice(steps, max(counts, default=0) + 1))
    return [choices[count] for count in counts]


def _unmeasured(request: SweepRequest) -> list[tuple[str, int]]:
    """Orders and seeds that no file is measured for."""
    named = [name for name in request.orders if name in UNMEASURED]
    return [(name, seed) for name in named for seed in range(request.seeds if is_seeded(name) else 1)]
