"""Where a matrix of the GGUF file comes from: the checkpoint's tensors, and the module of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ranges = tuple[tuple[int, int], ...]  # runs of numbers: first, after the last


@dataclass(frozen=True)
class TensorSource:
    """The checkpoint's tensors that make a matrix of the file, as llama.cpp's converter walks through them; `shape` is
    the first one's.

    `axis` of them is what the matrix has as columns: -1 their columns, -2 their rows (it is transposed), None where
    that cannot be told. `order` are those columns where not all of them stand in their order; `rows` of the source,
    which is one tensor then, are in the matrix.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    axis: int | None = None
    order: Ranges | None = None
    rows: Ranges | None = None


@dataclass(frozen=True)
class MatrixSource:
    """The module of transformers whose inputs a matrix of the file multiplies, by its path in the model.

    `product` is which of its products that is, where the module is a mixture of experts; empty for a linear layer.
    `n_mat` matrices [n_out, n_in] make the tensor. `order` gives, for each of the file's columns, the input in
    transformers, where it is another one; `rows` of the layer's weight are in the file's matrix, None where unknown.
    """

    module: str
    product: str
    n_mat: int
    n_in: int
    order: Ranges | None = None
    rows: Ranges | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


def numbers(ranges: Ranges) -> np.ndarray:
    """Return the numbers of these runs, int64, in their order."""
    return np.concatenate([np.arange(first, after) for first, after in ranges])


def _ranges(value: Sequence[Sequence[int]] | None) -> Ranges | None:
    return None if value is None else tuple((int(first), int(after)) for first, after in value)


def tensor_source(value: Mapping[str, Any]) -> TensorSource:
    """Return what `llamacpp/converter_walk.py` wrote of one tensor."""
    order, rows = (_ranges(value.get(key)) for key in ("order", "rows"))
    return TensorSource(tuple(value["sources"]), tuple(value["shape"]), value.get("axis"), order, rows)


def matrix_source(value: Mapping[str, Any]) -> MatrixSource:
    """Return what `MatrixSource.to_json` made, from JSON."""
    return MatrixSource(**{**value, **{key: _ranges(value.get(key)) for key in ("order", "rows")}})
