"""A sweep: what becomes of a model as more of its layers become low, in several orders, and what uniform files do.

Every choice of layers is spliced from the layer bank, measured and deleted; its figures are kept under a key of all
that they depend on, so an interrupted sweep goes on and a second one with more orders measures only what is new.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget, EvalData, Plan, Profile
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.logprobs import Target
from luq_gguf.llamacpp.gguf import header_only, splice
from luq_gguf.method import greedy, ranking, two_type_plan
from luq_gguf.planning import variants
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder, hash_of
from luq_gguf.run.preflight import Door, Listener

ORDERS = ("entropy", "entropy-desc", "random", "kld")
ON_REQUEST = ("greedy", "best")  # these cost more than all the others; best is added by `planning`
UNIFORM = ("IQ1_M", "IQ2_XXS", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "Q4_K_M")


@dataclass(frozen=True)
class SweepRequest:
    """Which numbers of low layers (None: all), in which orders, how many random ones, against which uniform files."""

    counts: tuple[int, ...] | None = None
    orders: tuple[str, ...] = ORDERS
    seeds: int = 1
    uniform: tuple[str, ...] = UNIFORM


class Meter:
    """Measures choices of low layers of one model on one set of data against its 16-bit file.

    `home` is the run folder that keeps what was measured, where it is not the one whose importance matrix is used.
    """

    def __init__(
        self,
        run: RunFolder,
        door: Door,
        reference: Target,
        data: EvalData,
        metric: str,
        threads: int | None,
        listener: Listener,
        home: RunFolder | None = None,
    ) -> None:
        self._run, self._door, self._reference, self._data, self._metric = run, door, reference, data, metric
        self._threads, self._listener, self._home = threads, listener, home or run
        self._work = self._home.work / "eval"
        self._points = self._home.work / "points"
        for folder in (self._work, self._points):
            folder.mkdir(exist_ok=True)

    def with_importance_of(self, run: RunFolder, door: Door) -> Meter:
        """The same measurements of files that are quantized with another run folder's importance matrix."""
        asked = (self._reference, self._data, self._metric, self._threads, self._listener)
        return Meter(run, door, *asked, home=self._home)

    @cached_property
    def _bank(self) -> tuple[Path, Path]:
        return quantization_stage.make_bank(self._run, self._door, self._threads, self._listener)

    def plan(self, layers: Iterable[int]) -> Plan:
        chosen = sorted(layers)
        order = [*chosen, *(n for n in range(self._door.tensors.n_layers) if n not in set(chosen))]
        return two_type_plan.make_plan(self._door.tensors, order, Budget(low_layers=len(chosen)), "sweep")

    def low(self, layers: Iterable[int]) -> dict[str, Any]:
        """Figures of the file with these layers low."""
        plan = self.plan(layers)
        return self.spliced(plan, self._bank[::-1]) | {
            "average_bits": two_type_plan.layer_bits(self._door.tensors, plan.low_layers)
        }

    def spliced(self, plan: Plan, sources: Sequence[Path]) -> dict[str, Any]:
        """Figures of a file whose tensors lie in others."""
        path = self._points / "point.gguf"
        return self._measured(plan, path, lambda: splice.splice(sources, plan.tensor_types, path))

    def uniform(self, ftype: str) -> dict[str, Any]:
        """Figures of llama-quantize's own file of a type, with the same importance matrix."""
        plan = variants.uniform_plan(self._door, ftype)
        return self.quantized(plan) | {"average_bits": variants.layer_bits(self._door, plan)}

    def quantized(self, plan: Plan) -> dict[str, Any]:
        """Figures of a file that llama-quantize writes for it."""
        path = self._points / "uniform.gguf"

        def make() -> None:
            quantization_stage.write_plan(self._run, self._door, plan, path, self._threads, self._listener)

        return self._measured(plan, path, make)

    def sixteen_bit(self) -> dict[str, Any]:
        """Figures of the reference itself."""
        found = evaluation.evaluate(self._reference, self._reference, self._data, self._work, metric=self._metric)
        return {"n_bytes": self._reference.model.stat().st_size, "bpw": 16.0, "average_bits": 16.0} | {
            "metrics": _metrics(found.content)
        }

    def conditions(self) -> dict[str, Any]:
        """What all points share."""
        return {
            "reference": self._reference.model.name,
            "data": self._data.name,
            "data_sha256": self._data.sha256,
            "n_samples": len(self._data.samples),
            "n_chunks": len(self._data.chunks),
            "metric": self._metric,
            "max_tokens": self._reference.max_tokens,
            "low": self._door.tensors.low,
            "high": self._door.tensors.high,
        }

    def _measured(self, plan: Plan, path: Path, make: Callable[[], None]) -> dict[str, Any]:
        record = self._run.read()["stages"]["profile"]["outputs"][header_only.IMATRIX_NAME]["sha256"]
        asked = [self._data.sha256, self._metric, self._reference.key(), record, dict(plan.tensor_types), plan.high]
        kept = self._points / f"{hash_of(*asked)}.json"
        if kept.exists():
            content: dict[str, Any] = serialization.read_json(kept, "sweep")
            return content
        make()
        target = replace(self._reference, model=path)
        scratch = self._points / "scratch"
        found = evaluation.evaluate(
            target, self._reference, self._data, self._work, metric=self._metric, scratch=scratch
        )
        content = {"n_bytes": path.stat().st_size, "bpw": plan.bpw, "metrics": _metrics(found.content)}
        serialization.write_json(kept, content)
        path.unlink()
        shutil.rmtree(scratch)
        return content


def _metrics(content: dict[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "accuracy_change", "kld", "kld_answer", "kld_text", "same_top", "perplexity", "metric")
    return {name: content.get(name) for name in names}


def sweep(
    run: RunFolder,
    door: Door,
    profile: Profile,
    meter: Meter,
    request: SweepRequest,
    listener: Listener,
) -> dict[str, Any]:
    """All points, written to sweep.json after each one."""
    n = door.tensors.n_layers
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

    def add(order: str, seed: int, count: int | None, layers: Sequence[int], figures: dict[str, Any]) -> None:
        told = {"order": order, "seed": seed, "n_low": count, "low_layers": sorted(layers)}
        points.append(told | figures)
        content = {"points": points, "conditions": meter.conditions()}
        serialization.write_json(run.file("sweep.json"), content)

    for (name, seed), sets in orders.items():
        for layers in sets:
            add(name, seed, len(layers), layers, meter.low(layers))
            if frozenset(layers) not in seen:
                seen.add(frozenset(layers))
                tick(total)
    for ftype in request.uniform:
        add(f"uniform {ftype}", 0, None, (), meter.uniform(ftype))
        tick(total)
    add("uniform F16", 0, None, (), meter.sixteen_bit())
    tick(total)
    found: dict[str, Any] = serialization.read_json(run.file("sweep.json"), "sweep")
    return found


def order_by_kld(meter: Meter, n_layers: int, tick: Callable[[], None]) -> tuple[int, ...]:
    """Layers by the divergence of the file that has each alone low, the least first."""
    found = {}
    for layer in range(n_layers):
        found[layer] = meter.low([layer])["metrics"]["kld"]["mean"]
        tick()
    return ranking.rank_by(found)


def _greedy(meter: Meter, order: Sequence[int], counts: Sequence[int], listener: Listener) -> list[tuple[int, ...]]:
    """The greedy choices of these numbers of layers."""
    most, done = max(1, greedy.most_files(len(order), max(counts, default=0))), itertools.count(1)

    def measure(layers: tuple[int, ...]) -> float:
        kld = float(meter.low(layers)["metrics"]["kld"]["mean"])
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
