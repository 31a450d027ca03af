"""Adds up how steeply drawn directions of the logits change along what types change in matrices.

`method/fisher.py` says what the sums mean. A matrix of the file has rows of a module of transformers in an order of its
own; sampled rows are found there by their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.calibration.gradients import Embedded, Product, Scored
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.hf.decoder import Part, decoder_matrices
from luq_gguf.llamacpp.sampled_rows import SampledRows
from luq_gguf.method import fisher

SAME = 1e-3  # of a row's squares: how far its weights in the 16-bit file may be from the model's
ELEMENTS = 2**24  # of a matrix's gradients that are there at once
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class _Rows:
    """Which of a matrix's sampled rows [n] an expert has, and at which of its module's outputs [n]; the inputs in the
    file's order, None where they are in transformers'."""

    sampled: Tensor
    outputs: Tensor
    order: Tensor | None


class Slopes:
    """Sums over sequences and draws of squared slopes: `squares` [n_types] of every named matrix that was seen.

    A slope is of the matrix's sampled rows, which `rows` reads: others' changes are taken as alike and independent, so
    that its square is scaled to all rows. Matrices that are not found in the modules that `sources` says they are of
    are `unseen`.
    """

    def __init__(
        self,
        model: nn.Module,
        sources: Mapping[str, MatrixSource],
        rows: Callable[[str], SampledRows],
        names: Iterable[str],
    ) -> None:
        matrices, self._names = decoder_matrices(model, sources), set(names)
        self._parts: dict[nn.Module, tuple[Part, ...]] = dict(matrices.linears.items())
        for module, products in matrices.experts.items():
            self._parts[module] = tuple({part.name: part for parts in products.values() for part in parts}.values())
        self._n_mat = {name: shape[0] for name, shape in matrices.shapes.items()}
        self._read = rows
        self._found: dict[tuple[str, str, int], _Rows | None] = {}
        self._slopes: dict[tuple[str, int], np.ndarray] = {}  # of the batch's sequences: [n_draws, n_types]
        self.squares: dict[str, np.ndarray] = {}

    @property
    def unseen(self) -> set[str]:
        return self._names - self.squares.keys()

    def add(self, batch: Iterable[Product | Scored | Embedded]) -> None:
        """Add a batch: all that `DrawnGradients.of` yields of it."""
        for shown in batch:
            if isinstance(shown, Product):
                for part in self._parts.get(shown.module, ()):
                    if part.name in self._names:
                        self._add_product(shown, part)
            elif isinstance(shown, Scored):
                self._add_head(shown)
            elif EMBEDDING in self._names:
                self._add_embeddings(shown)
        for (name, _), slopes in self._slopes.items():  # a mixture's experts have added up by now
            rows = self._read(name)
            self._square(name, (slopes**2).sum(0) * rows.n_rows / len(rows.numbers))
        self._slopes.clear()

    def _square(self, name: str, squares: np.ndarray) -> None:
        self.squares[name] = self.squares.get(name, np.zeros(len(squares))) + squares

    def _add_product(self, product: Product, part: Part) -> None:
        key, rows = (part.name, product.parameter, product.expert), self._read(part.name)
        if key not in self._found:
            self._found[key] = self._find(product, part, rows)
        found = self._found[key]
        if found is None or not len(found.sampled):
            return
        device, n_draws = product.x.device, len(product.gradients)
        changes = torch.from_numpy(rows.changes[:, found.sampled.numpy()]).to(device).float().flatten(1)
        x = product.x if found.order is None else product.x[:, found.order]
        gradients = product.gradients[..., found.outputs]
        at_once = max(1, ELEMENTS // (n_draws * changes.shape[1]))
        for at in range(0, len(product.spans), at_once):
            spans = product.spans[at : at + at_once]
            outer = torch.stack([
                (of_draw[first:after].float().T @ x[first:after].float()).flatten()
                for _, first, after in spans for of_draw in gradients
            ])  # fmt: skip
            slopes = (outer @ changes.T).cpu().double().numpy().reshape(len(spans), n_draws, -1)
            for (sequence, _, _), of_span in zip(spans, slopes, strict=True):
                before = self._slopes.get((part.name, sequence), 0.0)
                self._slopes[part.name, sequence] = before + of_span

    def _find(self, product: Product, part: Part, rows: SampledRows) -> _Rows | None:
        """Find sampled rows among those of the product's expert; None where the matrix is not of this product."""
        weight = getattr(product.module, product.parameter).detach()
        if product.parameter != "weight":
            weight = weight[product.expert]
            weight = weight.T if getattr(product.module, "is_transposed", False) else weight
        order = None if part.order is None else torch.from_numpy(part.order).to(weight.device)
        known = (weight if order is None else weight[:, order]).float()
        of_expert = rows.numbers // (rows.n_rows // self._n_mat[part.name]) == product.expert
        sampled = torch.from_numpy(np.flatnonzero(of_expert))
        wanted = torch.from_numpy(rows.weights)[sampled].to(weight.device)
        if wanted.shape[1] != known.shape[1] or not len(sampled):
            return None
        least, outputs = torch.cdist(wanted, known).square().min(1)
        is_same = bool((least <= SAME * wanted.square().sum(1) + 1e-12).all())
        return _Rows(sampled, outputs, order) if is_same else None

    def _add_head(self, scored: Scored) -> None:
        """The head's changes are taken as independent: the variance of the logits' change by the model's distribution
        is then that of sampled rows, scaled to the lengths of the rows that are likely."""
        name = OUTPUT if OUTPUT in self._names else EMBEDDING
        if name not in self._names:
            return
        rows, p = self._read(name), scored.log_probabilities.exp()
        changes = torch.from_numpy(rows.changes).to(p.device).float()
        of_row = torch.einsum("krn,tn->ktr", changes, scored.hidden.float()).square().mean(-1)  # [n_types, positions]
        lengths = scored.lengths / float((rows.weights**2).sum(1).mean() or 1.0)
        spread = (p * (1 - p)) @ lengths
        squares = (of_row * spread * scored.slope**2).sum(1) * scored.n_draws
        self._square(name, squares.cpu().double().numpy())

    def _add_embeddings(self, embedded: Embedded) -> None:
        """Tokens of a sequence that are the same have the same row, whose gradients add up."""
        rows = self._read(EMBEDDING)
        width = embedded.vectors.shape[-1]
        keys = torch.stack([embedded.sequences.to(embedded.tokens), embedded.tokens])
        distinct, number = torch.unique(keys, dim=1, return_inverse=True)
        vectors = torch.zeros(distinct.shape[1], width, device=keys.device)
        vectors[number] = embedded.vectors.float()
        for of_draw in embedded.gradients:
            slopes = torch.zeros_like(vectors).index_add_(0, number, of_draw.float())
            by_token, of_token = (value.cpu().double().numpy() for value in (slopes, vectors))
            self._square(EMBEDDING, fisher.embedding_squares(by_token, of_token, rows.changes, rows.weights))
