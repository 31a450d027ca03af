"""Finds the decoder of a transformers model: its layers, and its matrices by GGUF name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import experts
from luq_gguf.hf.tensor_names import TensorNames


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers, in order. Raises CheckpointError where the model has none in the usual place."""
    find: Any = getattr(model, "get_decoder", None)
    decoder = find() if find else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise CheckpointError(
            f"luq-gguf cannot find the decoder layers of {type(model).__name__}.",
            "Please report this with the model's name.",
        )
    return layers


@dataclass(frozen=True)
class Matrices:
    """The decoder layers' matrices by GGUF name. `experts` maps each module of experts to the names that each of its
    two products reads. `orders` gives, for each place in the file's matrix, the column in transformers, where the
    converter reorders columns.
    """

    linears: dict[nn.Linear, str]
    experts: dict[nn.Module, dict[str, tuple[str, ...]]]
    orders: dict[nn.Linear, np.ndarray]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return (n_mat, n_in) of every matrix: the shape that its importance will have."""
        shapes = {name: (1, linear.in_features) for linear, name in self.linears.items()}
        for module, products in self.experts.items():
            for which, names in products.items():
                shapes |= dict.fromkeys(names, experts.shape(module, which))
        return shapes

    def column_energies(self) -> dict[str, np.ndarray]:
        """Return sums of squared weights per column, float64 [n_in], of one linear layer of each kind, in the file's
        order.

        Sums do not depend on the order of rows, so they tell whether a converted matrix has the same columns.
        """
        kinds = {name.split(".", 2)[2]: linear for linear, name in reversed(self.linears.items())}
        energies = {}
        for linear in kinds.values():
            energy = linear.weight.detach().double().square().sum(0).cpu().numpy()
            energies[self.linears[linear]] = energy[self.orders[linear]] if linear in self.orders else energy
        return energies


def decoder_matrices(model: nn.Module, names: TensorNames) -> Matrices:
    """Return every matrix of the decoder's layers that can be calibrated.

    Raises CheckpointError naming a linear layer without a GGUF name, or experts that cannot be calibrated.
    """
    layers = {id(layer) for layer in decoder_layers(model)}
    matrices = Matrices({}, {}, {})
    for path, layer in model.named_modules():
        if id(layer) not in layers:
            continue
        for inner, module in layer.named_modules():
            name = f"{path}.{inner}"
            if isinstance(module, nn.Linear):
                matrices.linears[module] = _named(names, "The linear layer", name)
                order = names.column_order(matrices.linears[module], layer.get_submodule(inner.rpartition(".")[0]))
                if order is not None:
                    matrices.orders[module] = order
            elif experts.is_experts(module):
                matrices.experts[module] = _expert_names(names, name)
            elif not isinstance(module, nn.Conv1d) and any(p.ndim > 2 for p in module.parameters(recurse=False)):
                raise CheckpointError(
                    f"{name} ({type(module).__name__}) computes its experts in its own way, so transformers offers no "
                    "place to hook each expert's inputs.",
                    "luq-gguf cannot profile this model, but it can profile dense models and mixtures of experts such "
                    "as Qwen3-MoE.",
                )
    return matrices


def _expert_names(names: TensorNames, path: str) -> dict[str, tuple[str, ...]]:
    """transformers has gate and up in one parameter; llama.cpp's files have them apart, or together."""
    fused_names = [names.weight(f"{path}.{part}") for part in ("gate_up_proj", "gate_proj", "up_proj")]
    into = tuple(name for name in fused_names if name)
    return {
        experts.INTO: into or (_named(names, "The experts'", f"{path}.up_proj"),),
        experts.OUT_OF: (_named(names, "The experts'", f"{path}.down_proj"),),
    }


def _named(names: TensorNames, what: str, path: str) -> str:
    name = names.weight(path)
    if name is None:
        raise CheckpointError(
            f"{what} {path} has no GGUF tensor of its own in the architecture {names.arch}.",
            "luq-gguf cannot profile this model yet; please report this with the model's name.",
        )
    return name
