"""Gradients, by the outputs of a model's products, along random directions of its logits (`method/fisher.py`).

The batch flows forward once, and what enters each decoder layer is kept. Then the layers are walked from the last to
the first: each is computed again, now with gradients, and given up when its products were shown. So there is never more
than one layer's graph, and weights have no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.calibration.batches import Batch
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import experts
from luq_gguf.hf.decoder import decoder_layers
from luq_gguf.hf.head import Head

CHUNK = 128  # positions whose logits are there at once
ALIKE = 1e-2  # of what leaves a layer, what enters the next may differ from it
_Seen = tuple[nn.Module, str, int, Tensor, Tensor, Tensor | None]  # module, parameter, expert, x, y, tokens if not all


@dataclass(frozen=True)
class Product:
    """What a matrix multiplied in a batch: inputs x [n, n_in], and gradients [n_draws, n, n_out] by its
    outputs. `spans` are sequences of the batch, each with its rows of x: (number, first, after the last).
    `expert` is 0 for linear layers."""

    module: nn.Module
    parameter: str
    expert: int
    x: Tensor
    gradients: Tensor
    spans: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Scored:
    """What the head was given at scored positions, and what it made of it: hidden states [n, width], log-probabilities
    [n, n_vocabulary], float32; the slope of the logits by the product with its matrix, and the squared lengths of that
    matrix's rows [n_vocabulary]."""

    hidden: Tensor
    log_probabilities: Tensor
    slope: float
    lengths: Tensor
    n_draws: int


@dataclass(frozen=True)
class Embedded:
    """What left the embeddings, [n, width], for these tokens [n], and its gradients [n_draws, n, width]; sequences [n]
    of the batch. Places of pictures are not in it."""

    tokens: Tensor
    sequences: Tensor
    vectors: Tensor
    gradients: Tensor


class DrawnGradients:
    """Makes gradients along `draws` random directions at every scored position. The same samples get the same
    directions in any batch.

    Scored are valid positions whose token is none of `image_ids`, as files are measured there, and which another token
    follows, as in training: what comes after a sample's last one, the data does not say. Raises CheckpointError where
    the model's layers or head are not simply one behind the other.
    """

    def __init__(self, model: nn.Module, draws: int, seed: int, image_ids: set[int]) -> None:
        self._model, self._layers = model.requires_grad_(requires_grad=False), decoder_layers(model)
        self._draws, self._seed, self._image_ids = draws, seed, sorted(image_ids)
        self._head = Head(model)

    def of(self, batch: Batch) -> Iterator[Product | Scored | Embedded]:
        """Yield what the head made of the batch, then all products, from the last layer to the first, and what left the
        embeddings."""
        with torch.enable_grad():
            entries, last, hidden = self._forward(batch)
            entered = _hidden(*entries[0]).detach()
            scored = self.scored(batch)
            by_hidden = torch.zeros((self._draws, *hidden.shape), dtype=hidden.dtype, device=hidden.device)
            yield from self._drawn(hidden.detach(), scored, batch, by_hidden)
            slopes = torch.stack([
                torch.autograd.grad(hidden, last, of_draw, retain_graph=True)[0] for of_draw in by_hidden
            ])  # fmt: skip
            del hidden, by_hidden, last
            for layer in reversed(self._layers):
                products, slopes = self._layer(layer, *entries.pop(), slopes)
                yield from products
        text = self._text(batch).reshape(-1).nonzero().reshape(-1).to(entered.device)
        tokens = batch.inputs["input_ids"].reshape(-1).to(entered.device)[text]
        flat, width = slopes.reshape(self._draws, -1, slopes.shape[-1]), entered.shape[-1]
        yield Embedded(tokens, text // scored.shape[1], entered.reshape(-1, width)[text], flat[:, text])

    def scored(self, batch: Batch) -> Tensor:
        """Return which positions are scored, bool [sequences, tokens]."""
        followed = torch.zeros_like(batch.valid)
        followed[:, :-1] = batch.valid[:, 1:]
        return self._text(batch) & followed

    def _text(self, batch: Batch) -> Tensor:
        """Which positions are of text."""
        ids = batch.inputs["input_ids"].cpu()
        return batch.valid & ~torch.isin(ids, torch.tensor(self._image_ids, dtype=ids.dtype))

    def _forward(self, batch: Batch) -> tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], Tensor, Tensor]:
        """What enters the layers; what leaves the last one, as a leaf; and what enters the head."""
        entries: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        leaves: list[Tensor] = []
        outputs: list[Tensor] = []
        text = self._text(batch)

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = _hidden(args, kwargs)
            if outputs and not _alike(outputs.pop(), hidden, text):
                raise CheckpointError(
                    f"{type(layer).__name__} is not given what the layer before it has computed.",
                    "Sensitivities of this model are learned from measured files.",
                )
            entries.append((args, kwargs))

        def leave(layer: nn.Module, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            outputs.append(hidden)
            if layer is not self._layers[-1]:
                return output
            leaves.append(hidden.detach().requires_grad_())
            return (leaves[0], *output[1:]) if isinstance(output, tuple) else leaves[0]

        handles: list[Any] = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in self._layers]
        handles += [layer.register_forward_hook(leave) for layer in self._layers]
        try:
            base: Any = self._model.base_model
            output = base(**batch.inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return entries, leaves[0], getattr(output, "last_hidden_state", output[0])

    def _drawn(self, hidden: Tensor, scored: Tensor, batch: Batch, by_hidden: Tensor) -> Iterator[Scored]:
        """Draw directions of the logits at scored positions, and write gradients by what enters the head."""
        lengths = [int(n) for n in scored.sum(1)]
        numbers = [(sample, n) for sample, length in zip(batch.ids, lengths, strict=True) for n in range(length)]
        places = scored.reshape(-1).nonzero().reshape(-1).to(hidden.device)
        flat, into = hidden.reshape(-1, hidden.shape[-1]), by_hidden.reshape(self._draws, -1, hidden.shape[-1])
        for at in range(0, len(places), CHUNK):
            here = places[at : at + CHUNK]
            rows = flat[here].requires_grad_()
            logits = self._head.logits(rows)
            log_p = logits.detach().log_softmax(-1)
            p = log_p.exp()
            root, signs = p.sqrt(), self._signs(numbers[at : at + CHUNK], p.shape[-1]).to(p)
            for draw in range(self._draws):
                upward = root * signs[draw]
                upward = upward - p * (root * upward).sum(-1, keepdim=True)
                into[draw, here] = torch.autograd.grad(logits, rows, upward, retain_graph=True)[0].to(into.dtype)
            yield Scored(rows.detach(), log_p, self._head.slope, self._head.lengths, self._draws)

    def _signs(self, numbers: list[tuple[int, int]], n_vocabulary: int) -> Tensor:
        """Random signs int8 [n_draws, n, n_vocabulary] of positions, each a sample's number and its own in it."""
        n_bytes, drawn = self._draws * -(-n_vocabulary // 8), []
        for position in numbers:
            bits = np.unpackbits(np.frombuffer(np.random.default_rng((self._seed, *position)).bytes(n_bytes), np.uint8))
            drawn.append(bits.reshape(self._draws, -1)[:, :n_vocabulary])
        return torch.from_numpy(np.stack(drawn, 1)).to(torch.int8) * 2 - 1

    def _layer(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], slopes: Tensor
    ) -> tuple[list[Product], Tensor]:
        """A layer's products, and gradients by what enters it from those by what leaves it."""
        entry = _hidden(args, kwargs).detach().requires_grad_()
        args, kwargs = ((entry, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": entry})
        seen: list[_Seen] = []
        with _shown(layer, seen):
            output = layer(*args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        outputs = [y for *_, y, _ in seen]
        by_output: list[list[Tensor | None]] = []
        by_entry: list[Tensor] = []
        for draw, of_draw in enumerate(slopes):
            last = draw + 1 == len(slopes)
            first, *others = torch.autograd.grad(
                hidden, [entry, *outputs], of_draw.to(hidden.device), retain_graph=not last, allow_unused=True
            )
            by_entry.append(first)
            by_output.append(list(others))
        products = []
        for number, (module, parameter, expert, x, y, tokens) in enumerate(seen):
            of_draws = [gradients[number] for gradients in by_output]
            if any(gradient is None for gradient in of_draws):
                continue
            gradients = torch.stack([g.reshape(-1, y.shape[-1]) for g in of_draws if g is not None])
            spans = _spans(tokens, entry.shape[0], entry.shape[1])
            flat = x.detach().reshape(-1, x.shape[-1])
            if len(flat) == spans[-1][2]:  # others do not compute one row for each token
                products.append(Product(module, parameter, expert, flat, gradients, spans))
        return products, torch.stack(by_entry)


def _noting(module: nn.Module, seen: list[_Seen]) -> experts.ProductHook:
    def product(parameter: str, expert: int, x: Tensor, y: Tensor, tokens: Tensor) -> None:
        seen.append((module, parameter, expert, x, y, tokens))

    return product


@contextmanager
def _shown(layer: nn.Module, seen: list[_Seen]) -> Iterator[None]:
    """Notes products of a layer while inside."""

    def linear(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            seen.append((module, "weight", 0, args[0], output, None))

    undo: list[Any] = []
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            undo.append(module.register_forward_hook(linear).remove)
        undo.append(experts.set_product_hook(module, _noting(module, seen)))
    try:
        yield
    finally:
        for remove in undo:
            if remove:
                remove()


def _spans(tokens: Tensor | None, n_sequences: int, length: int) -> tuple[tuple[int, int, int], ...]:
    """Runs of rows that are of one sequence each; tokens are in ascending order."""
    if tokens is None:
        return tuple((number, number * length, (number + 1) * length) for number in range(n_sequences))
    counts = torch.bincount(tokens.cpu() // length, minlength=n_sequences).tolist()
    ends = np.cumsum(counts).tolist()
    return tuple((n, end - count, end) for n, (count, end) in enumerate(zip(counts, ends, strict=True)) if count)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        raise CheckpointError(
            "The model's decoder layers are not given hidden states of sequences.",
            "Sensitivities of this model are learned from measured files.",
        )
    return hidden


def _alike(left: Tensor, entered: Tensor, text: Tensor) -> bool:
    """Whether a layer is given what the one before it has computed: at places of text, as some models add to pictures
    between layers."""
    if left.shape != entered.shape:
        return False
    places = text.to(left.device)
    difference = (left - entered.to(left.device))[places].float().norm()
    return bool(difference <= ALIKE * left[places].float().norm())
