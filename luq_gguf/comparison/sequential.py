"""Quantizes the linear layers of a reference model, one decoder layer after another.

A layer's inputs are those that the layers before it make once they are quantized, as GPTQ and BiLLM have it (Frantar et
al., 2023, section 3; Huang et al., 2024, algorithm 1). Activations of all batches are kept between layers, and the
weights are replaced in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.calibration.batches import Batch
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.decoder import decoder_layers

Quantizer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # weights [n_out, n_in], X X' of their inputs -> weights


@dataclass
class _Passing:
    """A batch between two layers: hidden states that enter the next one, and what else each layer is given."""

    hidden: Tensor
    others: list[tuple[tuple[Any, ...], dict[str, Any]]]
    valid: Tensor


@torch.inference_mode()
def quantize_layers(
    model: nn.Module,
    batches: Iterable[Batch],
    quantizers: Mapping[int, Quantizer],
    on_layers: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Replace the weights of all linear layers in the decoder layers that have a quantizer, by number. Returns them,
    float32 [n_out, n_in], by the names of the model's parameters.

    Raises CheckpointError where layers are not given hidden states of sequences, or weights are not in linear layers.
    """
    layers = decoder_layers(model)
    passing = [_entering(model, layers, batch) for batch in batches]
    names = {id(module): name for name, module in model.named_modules()}
    replaced: dict[str, np.ndarray] = {}
    for number, layer in enumerate(layers):
        on_layers(number, len(layers))
        if number in quantizers:
            sums = _input_products(layer, number, passing)
            for module, products in sums.items():
                weights = module.weight.detach().float().cpu().numpy()
                quantized = np.asarray(quantizers[number](weights, products), np.float32)
                module.weight.copy_(torch.from_numpy(quantized))
                replaced[f"{names[id(module)]}.weight"] = quantized
        for batch in passing:
            batch.hidden = _through(layer, number, batch)
    on_layers(len(layers), len(layers))
    return replaced


def _entering(model: nn.Module, layers: nn.ModuleList, batch: Batch) -> _Passing:
    """What the first layer is given of a batch, and what else all are."""
    hidden: list[Tensor] = []
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(state, Tensor) or state.shape[:2] != batch.valid.shape:
            raise CheckpointError(
                f"{type(layer).__name__} is not given hidden states of sequences.",
                "Quantizers that the paper compares with are simulated for models whose layers are.",
            )
        hidden.append(state) if not others else None
        others.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    try:
        model.base_model(**batch.inputs, use_cache=False)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    return _Passing(hidden[0], others, batch.valid)


def _through(layer: nn.Module, number: int, batch: _Passing) -> Tensor:
    args, kwargs = batch.others[number]
    output = layer(batch.hidden, *args, **kwargs)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _input_products(layer: nn.Module, number: int, passing: Iterable[_Passing]) -> dict[nn.Linear, np.ndarray]:
    """X X' float64 [n_in, n_in] of the inputs at valid tokens, for each linear layer inside."""
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    matrices = sum(parameter.dim() > 1 for parameter in layer.parameters())
    if not linears or matrices != len(linears):
        raise CheckpointError(
            f"{type(layer).__name__} has weights outside of linear layers, such as experts.",
            "Quantizers that the paper compares with are simulated for models without them.",
        )
    sums = {module: np.zeros((module.in_features, module.in_features)) for module in linears}
    for batch in passing:
        with _adding(sums, batch.valid):
            _through(layer, number, batch)
    return sums


@contextmanager
def _adding(sums: Mapping[nn.Linear, np.ndarray], valid: Tensor) -> Iterator[None]:
    """Add what linear layers are given at valid tokens to their sums, while inside."""

    def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        rows = args[0][valid.to(args[0].device)].float()
        sums[module][...] += (rows.T @ rows).double().cpu().numpy()

    handles = [module.register_forward_pre_hook(add) for module in sums]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
