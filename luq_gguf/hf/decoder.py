"""Finds the decoder of a transformers model: its layers, and what each of its modules gives matrices of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.tensor_sources import MatrixSource, Ranges, numbers


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers, in order. Raises CheckpointError where the model has none in the usual place."""
    find: Any = getattr(model, "get_decoder", None)
    decoder = find() if find else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        layers = _inner_layers(model, decoder)
    if layers is None:
        raise CheckpointError(
            f"luq-gguf cannot find the decoder layers of {type(model).__name__}.",
            "Please report this with the model's name.",
        )
    return layers


def _inner_layers(model: Any, decoder: nn.Module | None) -> nn.ModuleList | None:
    """The layers of a decoder that get_decoder() returns with its head (Llama 4): as many as the config has."""
    if decoder is None:
        return None
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    named = (
        module
        for path, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and path.rpartition(".")[2] == "layers" and len(module) == depth
    )
    return next(named, None)


@dataclass(frozen=True)
class Part:
    """A matrix of the file that a module's inputs give importance to.

    `order` gives, for each of the file's columns, the input in transformers, where it is another one; `rows` are those
    of the module's weight that it has, None where that is not known.
    """

    name: str
    order: np.ndarray | None
    rows: np.ndarray | None

    def sums(self, of_inputs: np.ndarray) -> np.ndarray:
        """Return [n_in] in the file's order, from what transformers has of each input."""
        return of_inputs if self.order is None else of_inputs[self.order]


@dataclass(frozen=True)
class Matrices:
    """What the decoder's modules give the file's matrices: `linears` by layer, `experts` by module and product (as
    `experts.set_hook` calls it). `shapes` are (n_mat, n_in) of every matrix: those of its importance."""

    linears: dict[nn.Linear, tuple[Part, ...]]
    experts: dict[nn.Module, dict[str, tuple[Part, ...]]]
    shapes: dict[str, tuple[int, int]]

    def column_energies(self) -> dict[str, np.ndarray]:
        """Return sums of squared weights per column, float64 [n_in], of one matrix of each kind, in the file's order.

        Sums do not depend on the order of rows, so they tell whether a converted matrix has the same columns.
        """
        kinds: dict[str, tuple[nn.Linear, Part]] = {}
        for linear, parts in reversed(self.linears.items()):
            kinds |= {part.name.split(".", 2)[2]: (linear, part) for part in parts if part.rows is not None}
        energies = {}
        for linear, part in kinds.values():
            weight = linear.weight.detach()[part.rows]
            energies[part.name] = part.sums(weight.double().square().sum(0).cpu().numpy())
        return energies


def decoder_matrices(model: nn.Module, sources: Mapping[str, MatrixSource]) -> Matrices:
    """Return the modules of a model that these sources name."""
    matrices = Matrices({}, {}, {name: (source.n_mat, source.n_in) for name, source in sources.items()})
    for name, source in sources.items():
        module: Any = model.get_submodule(source.module)
        part = (Part(name, _numbers(source.order), _numbers(source.rows)),)
        if source.product:
            products = matrices.experts.setdefault(module, {})
            products[source.product] = products.get(source.product, ()) + part
        else:
            matrices.linears[module] = matrices.linears.get(module, ()) + part
    return matrices


def _numbers(ranges: Ranges | None) -> np.ndarray | None:
    return None if ranges is None else numbers(ranges)
