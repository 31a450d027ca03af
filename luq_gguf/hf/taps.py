"""Listen to the decoder while it computes: outputs of layers, inputs of linear layers. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.errors import CheckpointError
from luq_gguf.hf.reservoir import Reservoir
from luq_gguf.hf.tensor_names import TensorNames
from luq_gguf.values import ImportanceMatrix


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


def linear_names(model: nn.Module, names: TensorNames) -> dict[nn.Linear, str]:
    """Every linear layer of the decoder's layers -> GGUF weight name.

    Raises CheckpointError naming a linear layer without a GGUF name, or weights that are no linear layer (experts).
    """
    prefix = {id(layer) for layer in decoder_layers(model)}
    found: dict[nn.Linear, str] = {}
    for layer_name, layer in model.named_modules():
        if id(layer) not in prefix:
            continue
        for name, parameter in layer.named_parameters():
            if parameter.ndim > 2:
                raise CheckpointError(
                    f"{layer_name}.{name} holds several matrices: mixture-of-experts decoders cannot be profiled yet.",
                    "Choose a dense model.",
                )
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                gguf_name = names.gguf_name(f"{layer_name}.{name}.weight")
                if gguf_name is None:
                    raise CheckpointError(
                        f"The linear layer {layer_name}.{name} has no GGUF name in the architecture {names.arch}.",
                        "luq-gguf cannot convert this model yet; please report it with the model's name.",
                    )
                found[module] = gguf_name
    return found


class Taps:
    """Sums of squared inputs per linear layer, and sampled output vectors per layer, over all batches seen.

    Inputs that several linear layers share (query, key and value; gate and up) are summed once.
    """

    def __init__(self, model: nn.Module, names: TensorNames, reservoir: Reservoir) -> None:
        self._layers = decoder_layers(model)
        self._linears = linear_names(model, names)
        self._reservoir = reservoir
        self._sums: dict[str, np.ndarray] = {name: np.zeros(m.in_features) for m, name in self._linears.items()}
        self._n_tokens = 0
        self._valid: Tensor | None = None  # flat indices of valid tokens; None when all are
        self._rows: Tensor | None = None
        self._slots: np.ndarray = np.empty(0, dtype=np.int64)
        self._shared: tuple[Any, np.ndarray] | None = None
        self._multimodal = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks are on the model inside this context only."""
        handles = [linear.register_forward_pre_hook(self._on_input) for linear in self._linears]
        for number, layer in enumerate(self._layers):
            handles.append(layer.register_forward_hook(self._on_output(number)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._shared = None

    def expect(self, valid: Tensor, multimodal: bool, ids: tuple[int, ...]) -> None:
        """Say what the next forward pass holds: valid tokens bool [batch, tokens] of these samples."""
        flat = valid.reshape(-1)
        positions = flat.nonzero().reshape(-1)
        self._valid = None if bool(flat.all()) else positions
        self._n_tokens += len(positions)
        self._multimodal = multimodal
        chosen, self._slots = self._reservoir.choose(multimodal, ids, [int(n) for n in valid.sum(1)])
        self._rows = positions[torch.from_numpy(chosen)]

    def importance(self, n_samples: int) -> ImportanceMatrix:
        return ImportanceMatrix(dict(self._sums), dict.fromkeys(self._sums, self._n_tokens), n_samples)

    def restore(self, matrix: ImportanceMatrix) -> None:
        """Go on from sums of an interrupted pass."""
        self._sums = {name: matrix.in_sum2[name].copy() for name in self._sums}
        self._n_tokens = next(iter(matrix.counts.values()), 0)

    def _on_input(self, linear: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if self._shared is None or self._shared[0] is not x:
            flat = x.detach().reshape(-1, x.shape[-1])
            if self._valid is not None:
                flat = flat.index_select(0, self._valid.to(flat.device))
            self._shared = (x, flat.float().square().sum(0).cpu().numpy())
        name = self._linears[linear]  # type: ignore[index]
        self._sums[name] += self._shared[1]

    def _on_output(self, number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if len(self._slots):
                hidden = output[0] if isinstance(output, tuple) else output
                flat = hidden.detach().reshape(-1, hidden.shape[-1])
                assert self._rows is not None
                vectors = flat.index_select(0, self._rows.to(flat.device)).cpu()
                self._reservoir.write(self._multimodal, number, self._slots, vectors)

        return hook
