"""How much of each matrix's output a quantized type loses, by the importance of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import reader

HOW = 2  # in what way errors are weighed: kept ones of other numbers are not read
ROWS = 128  # of a matrix: a thousand columns each make the mean of so many exact to less than a percent


def share_lost(weights: np.ndarray, quantized: np.ndarray, columns: np.ndarray) -> float:
    """Return the relative error of the output, sum(m (w - q)^2) / sum(m w^2), over some rows of a matrix.

    w is the 16-bit weight, q what a quantized file has for it, m the mean squared input of its column (1 where no
    importance is known): the error for inputs whose columns are independent.
    """
    return float(((weights - quantized) ** 2 * columns).sum()) / (float((weights**2 * columns).sum()) or 1.0)


def tensors_of(path: Path) -> Mapping[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in reader.open_reader(path).tensors}


def _matrix(tensor: gguf.ReaderTensor) -> np.ndarray:
    """Rows of a tensor's data, as bytes or numbers; those of a mixture's experts one behind the other."""
    data = tensor.data
    return np.asarray(data.reshape(-1, data.shape[-1]))


def n_rows_of(tensor: gguf.ReaderTensor) -> int:
    return len(_matrix(tensor))


def rows_of(tensor: gguf.ReaderTensor, most: int) -> np.ndarray:
    n = n_rows_of(tensor)
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(np.int64))


def values_of(tensor: gguf.ReaderTensor, rows: np.ndarray) -> np.ndarray:
    return np.asarray(quants.dequantize(_matrix(tensor)[rows], tensor.tensor_type), np.float32)


def columns_of(importance: ImportanceMatrix, tensor: gguf.ReaderTensor, rows: np.ndarray) -> np.ndarray:
    """Return mean squared inputs of the rows' columns, [n_rows or 1, n_in]; 1 where they are not known, as of experts
    that no token reached: llama-quantize weighs these alike (tools/quantize/quantize.cpp, load_imatrix)."""
    name, n_rows = tensor.name, len(_matrix(tensor))
    if name not in importance.in_sum2:
        return np.ones((1, 1))
    counts = importance.counts[name][:, None]
    means = np.where(counts > 0, importance.in_sum2[name] / np.maximum(counts, 1), 1.0)
    return np.asarray(means[rows // max(1, n_rows // len(means))], np.float32)
