"""Listen to the decoder while it computes: outputs of layers, inputs of its matrices. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.calibration.reservoir import Reservoir
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.hf import experts
from luq_gguf.hf.tensor_names import TensorNames


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers, in order. Raises CheckpointError where the model has none in the usual place."""
    find: Any = getattr(model, "get_decoder", None)
    decoder = find() if find else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise CheckpointError(
            f"{type(model).__name__} keeps its decoder layers in no place that luq-gguf knows.",
            "Please report it with the model's name.",
        )
    return layers


@dataclass(frozen=True)
class Matrices:
    """The decoder layers' matrices by GGUF name. Experts: which of their two products reads -> names. `orders`: which
    of transformers' columns stands at each place of the file's matrix, where the converter puts them in another order.
    """

    linears: dict[nn.Linear, str]
    experts: dict[nn.Module, dict[str, tuple[str, ...]]]
    orders: dict[nn.Linear, np.ndarray]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(n_mat, n_in) of every matrix: what its importance will look like."""
        found = {name: (1, linear.in_features) for linear, name in self.linears.items()}
        for module, products in self.experts.items():
            for which, names in products.items():
                found |= dict.fromkeys(names, experts.shape(module, which))
        return found

    def column_energies(self) -> dict[str, np.ndarray]:
        """Sums of squared weights per column, float64 [n_in], of one linear layer of each kind, in the file's order.

        Sums do not depend on the order of rows, so they tell whether a converted matrix has the same columns.
        """
        kinds = {name.split(".", 2)[2]: linear for linear, name in reversed(self.linears.items())}
        found = {}
        for linear in kinds.values():
            energy = linear.weight.detach().double().square().sum(0).cpu().numpy()
            found[self.linears[linear]] = energy[self.orders[linear]] if linear in self.orders else energy
        return found


def decoder_matrices(model: nn.Module, names: TensorNames) -> Matrices:
    """Every matrix of the decoder's layers that can be listened to.

    Raises CheckpointError naming a linear layer without a GGUF name, or experts that cannot be listened to.
    """
    layers = {id(layer) for layer in decoder_layers(model)}
    found = Matrices({}, {}, {})
    for path, layer in model.named_modules():
        if id(layer) not in layers:
            continue
        for inner, module in layer.named_modules():
            name = f"{path}.{inner}"
            if isinstance(module, nn.Linear):
                found.linears[module] = _named(names, "The linear layer", name)
                order = names.column_order(found.linears[module], layer.get_submodule(inner.rpartition(".")[0]))
                if order is not None:
                    found.orders[module] = order
            elif experts.is_experts(module):
                found.experts[module] = _expert_names(names, name)
            elif not isinstance(module, nn.Conv1d) and any(p.ndim > 2 for p in module.parameters(recurse=False)):
                raise CheckpointError(
                    f"{name} ({type(module).__name__}) computes experts in a way of its own, so transformers gives no "
                    "place to listen to each expert's inputs.",
                    "luq-gguf cannot profile this model; dense models and mixtures such as Qwen3-MoE it can.",
                )
    return found


def _expert_names(names: TensorNames, path: str) -> dict[str, tuple[str, ...]]:
    """transformers has gate and up in one parameter; llama.cpp's files have them apart, or together."""
    known = [names.weight(f"{path}.{part}") for part in ("gate_up_proj", "gate_proj", "up_proj")]
    into = tuple(name for name in known if name)
    return {
        experts.INTO: into or (_named(names, "The experts'", f"{path}.up_proj"),),
        experts.OUT_OF: (_named(names, "The experts'", f"{path}.down_proj"),),
    }


def _named(names: TensorNames, what: str, path: str) -> str:
    name = names.weight(path)
    if name is None:
        raise CheckpointError(
            f"{what} {path} has no GGUF tensor of its own in the architecture {names.arch}.",
            "luq-gguf cannot profile this model yet; please report it with the model's name.",
        )
    return name


class Taps:
    """Sums of squared inputs per matrix, and sampled output vectors per layer, over all batches seen.

    Inputs that several linear layers share (query, key and value; gate and up) are summed once.
    """

    def __init__(self, model: nn.Module, names: TensorNames, reservoir: Reservoir) -> None:
        self._layers = decoder_layers(model)
        self._matrices = decoder_matrices(model, names)
        self._reservoir = reservoir
        shapes = self._matrices.shapes()
        self._sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._counts = {name: np.zeros(n_mat, dtype=np.int64) for name, (n_mat, _) in shapes.items()}
        self._mask = torch.empty(0, dtype=torch.bool)  # of all tokens: which are valid
        self._valid: Tensor | None = None  # flat indices of valid tokens; None when all are
        self._rows: Tensor | None = None
        self._slots: np.ndarray = np.empty(0, dtype=np.int64)
        self._shared: tuple[Any, np.ndarray, int] | None = None
        self._multimodal = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks are on the model inside this context only."""
        handles = [linear.register_forward_pre_hook(self._on_input) for linear in self._matrices.linears]
        for number, layer in enumerate(self._layers):
            handles.append(layer.register_forward_hook(self._on_output(number)))
        for module, products in self._matrices.experts.items():
            experts.listen(module, self._on_expert(products))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in self._matrices.experts:
                experts.listen(module, None)
            self._shared = None

    def expect(self, valid: Tensor, multimodal: bool, ids: tuple[int, ...]) -> None:
        """Say what the next forward pass holds: valid tokens bool [batch, tokens] of these samples."""
        self._mask = valid.reshape(-1)
        positions = self._mask.nonzero().reshape(-1)
        self._valid = None if bool(self._mask.all()) else positions
        self._multimodal = multimodal
        chosen, self._slots = self._reservoir.choose(multimodal, ids, [int(n) for n in valid.sum(1)])
        self._rows = positions[torch.from_numpy(chosen)]

    def importance(self, n_samples: int) -> ImportanceMatrix:
        return ImportanceMatrix(dict(self._sums), dict(self._counts), n_samples)

    def restore(self, matrix: ImportanceMatrix) -> None:
        """Go on from sums of an interrupted pass."""
        self._sums = {name: matrix.in_sum2[name].copy() for name in self._sums}
        self._counts = {name: matrix.counts[name].copy() for name in self._counts}

    def _on_input(self, linear: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if self._shared is None or self._shared[0] is not x:
            flat = x.detach().reshape(-1, x.shape[-1])
            if self._valid is not None:
                flat = flat.index_select(0, self._valid.to(flat.device))
            self._shared = (x, flat.float().square().sum(0).cpu().numpy(), len(flat))
        name, order = self._matrices.linears[linear], self._matrices.orders.get(linear)  # type: ignore[index,call-overload]
        self._sums[name][0] += self._shared[1] if order is None else self._shared[1][order]
        self._counts[name] += self._shared[2]

    def _on_expert(self, products: dict[str, tuple[str, ...]]) -> experts.Listener:
        def hook(which: str, expert: int, x: Tensor, tokens: Tensor) -> None:
            if self._valid is not None:
                x = x[self._mask.to(x.device)[tokens]]
            sums = x.float().square().sum(0).cpu().numpy()
            for name in products[which]:
                self._sums[name][expert] += sums
                self._counts[name][expert] += len(x)

        return hook

    def _on_output(self, number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if len(self._slots):
                hidden = output[0] if isinstance(output, tuple) else output
                flat = hidden.detach().reshape(-1, hidden.shape[-1])
                assert self._rows is not None
                vectors = flat.index_select(0, self._rows.to(flat.device)).cpu()
                self._reservoir.write(self._multimodal, number, self._slots, vectors)

        return hook
