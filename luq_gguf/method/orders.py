"""The orders in which decoder layers become low, each with all that the product says of it: the one place to add one.

The command line's choices, a sweep's orders, figures, model cards and what a plan has to measure are read from ORDERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from luq_gguf.core.types import LayerEntropy
from luq_gguf.method import greedy, ranking

Measure = Callable[[tuple[int, ...]], float]  # the mean KLD of a file with these layers low
Steps = Iterator[tuple[int, ...]]  # the layers that are low, in order, from none of them to all


@dataclass(frozen=True)
class Order:
    """One way of choosing which layers become low first.

    steps: (layers, seed, measure) -> Steps.
    label, line: its name and its line's colour, marker and dash in figures (matplotlib's words); why: the model card's
    sentence on it, without the stop.
    sign: 1 or -1 where it goes by entropy, up or down; 0 where it does not.
    seeded: whether the seed changes it. by_default: whether a sweep measures it unasked. by_size: whether it is drawn
    against files' sizes too.
    n_files: (layers, low layers) -> how many files it measures at most; None where it measures none. counted: what is
    counted while it does. grows: whether only so many are measured as the number of low layers needs.
    foretold: whether `measure` is what a backward pass foretells (method/fisher.py), so that no file is needed.
    """

    steps: Callable[[Sequence[LayerEntropy], int, Measure], Steps]
    label: str
    line: Mapping[str, str]
    why: str
    sign: int = 0
    seeded: bool = False
    by_default: bool = True
    by_size: bool = False
    n_files: Callable[[int, int], int] | None = None
    counted: str = ""
    grows: bool = False
    foretold: bool = False

    def all_layers(
        self,
        layers: Sequence[LayerEntropy],
        seed: int,
        measure: Measure,
        enough: Callable[[tuple[int, ...]], bool] = lambda chosen: False,
    ) -> tuple[int, ...]:
        """Return all layers, beginning with those that become low first: by steps until `enough` says that they are
        enough, then those of lowest entropy."""
        steps = self.steps(layers, seed, measure)
        chosen = next((step for step in steps if enough(step) or len(step) == len(layers)), ())
        return (*chosen, *(layer for layer in ranking.by_entropy(layers, 1) if layer not in chosen))


def _prefixes(order: tuple[int, ...]) -> Steps:
    return (order[:count] for count in range(len(order) + 1))


def _alone(layers: Sequence[LayerEntropy], seed: int, measure: Measure) -> Steps:
    return _prefixes(ranking.rank_by({layer.layer: measure((layer.layer,)) for layer in layers}))


def _line(color: str, marker: str, linestyle: str) -> dict[str, str]:
    return {"color": color, "marker": marker, "linestyle": linestyle}


ORDERS: Mapping[str, Order] = {
    "entropy": Order(
        lambda layers, seed, measure: _prefixes(ranking.by_entropy(layers, 1)),
        "lowest entropy first (LUQ)",
        _line("#0b559f", "o", "-"),
        "Layers whose outputs have the lowest entropy are said to survive 1-to-2-bit types best (LUQ), so they became "
        "low first",
        sign=1,
        by_size=True,
    ),
    "entropy-desc": Order(
        lambda layers, seed, measure: _prefixes(ranking.by_entropy(layers, -1)),
        "highest entropy first",
        _line("#b2182b", "s", "--"),
        "Layers whose outputs have the highest entropy became low first, the reverse of the LUQ rule",
        sign=-1,
    ),
    "random": Order(
        lambda layers, seed, measure: _prefixes(ranking.shuffled(layers, seed)),
        "random (band: seeds)",
        _line("#777777", "x", ":"),
        "Low layers were drawn at random, which is not the LUQ rule",
        seeded=True,
    ),
    "fisher": Order(
        _alone,
        "least predicted KLD alone first",
        _line("#b35806", "D", "-"),
        "Layers became low in the order of the KL divergence that gradients of the model (Fisher information) predict "
        "for each alone, which is not the LUQ rule",
        by_size=True,
        foretold=True,
    ),
    "kld": Order(
        _alone,
        "least KLD alone first",
        _line("#1b7837", "^", "-."),
        "Layers became low in the order of the KL divergence that each causes on its own, which is not the LUQ rule",
        by_size=True,
        n_files=lambda n_layers, n_low: n_layers,
        counted="layers, each low on its own",
    ),
    "greedy": Order(
        lambda layers, seed, measure: greedy.steps(ranking.by_entropy(layers, 1), measure),
        "greedy",
        _line("#762a83", "v", "--"),
        "Layers became low one after another, each time the one that measured best together with those already low, "
        "which is not the LUQ rule",
        by_default=False,  # it costs more than all the others
        by_size=True,
        n_files=greedy.most_files,
        counted="files measured",
        grows=True,
    ),
}
MEASURED = tuple(name for name, order in ORDERS.items() if order.n_files)
MEASURED_OPTIONS = ", ".join(f"--rank {name}" for name in MEASURED)  # in sentences
FORETOLD = tuple(name for name, order in ORDERS.items() if order.foretold)
WHOLE_OPTIONS = ", ".join(f"--rank {name}" for name in (*MEASURED, *FORETOLD))  # those that need a 16-bit file
UNMEASURED = tuple(name for name in ORDERS if name not in (*MEASURED, *FORETOLD))
SWEPT = tuple(name for name, order in ORDERS.items() if order.by_default)


def rank(layers: Sequence[LayerEntropy], name: str, seed: int = 0) -> tuple[int, ...]:
    """Return layer numbers in one of the UNMEASURED orders, beginning with the one to quantize first."""

    def measure(low: tuple[int, ...]) -> float:
        raise ValueError(f"the order {name} is measured or foretold")

    return ORDERS[name].all_layers(layers, seed, measure)


def is_seeded(name: str) -> bool:
    return name in ORDERS and ORDERS[name].seeded
