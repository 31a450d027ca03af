"""How much of each matrix's output a quantized type loses, by the importance of its columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

from luq_gguf.llamacpp import gguf_files
from luq_gguf.values import ImportanceMatrix

ROWS = 128  # of a matrix: a thousand columns each make the mean of so many exact to less than a percent


def relative_errors(
    source: Path,
    files: Sequence[Path],
    names: Collection[str],
    importance: ImportanceMatrix,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """For every name, in each file, sum(m (w - q)^2) / sum(m w^2) over rows spread evenly over the matrix.

    w is the 16-bit weight, q what the file has for it, m the mean squared input of its column (1 where no importance is
    known): the relative error of the matrix's output for inputs whose columns are independent.
    """
    whole, others = _tensors(source), [_tensors(path) for path in files]
    found: dict[str, list[float]] = {}
    for done, name in enumerate(names, 1):
        rows = _rows(whole[name])
        weights = _values(whole[name], rows)
        columns = _columns(importance, name, len(_matrix(whole[name])), rows)
        total = float((weights**2 * columns).sum()) or 1.0
        found[name] = [float(((weights - _values(one[name], rows)) ** 2 * columns).sum()) / total for one in others]
        progress(done, len(names))
    return found


def _tensors(path: Path) -> Mapping[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf_files.open_reader(path).tensors}


def _matrix(tensor: gguf.ReaderTensor) -> np.ndarray:
    """Rows of a tensor's data, as bytes or numbers; those of a mixture's experts one behind the other."""
    data = tensor.data
    return np.asarray(data.reshape(-1, data.shape[-1]))


def _rows(tensor: gguf.ReaderTensor) -> np.ndarray:
    n = len(_matrix(tensor))
    return np.unique(np.linspace(0, n - 1, min(ROWS, n)).astype(np.int64))


def _values(tensor: gguf.ReaderTensor, rows: np.ndarray) -> np.ndarray:
    return np.asarray(quants.dequantize(_matrix(tensor)[rows], tensor.tensor_type), np.float32)


def _columns(importance: ImportanceMatrix, name: str, n_rows: int, rows: np.ndarray) -> np.ndarray:
    """Mean squared inputs of the rows' columns, [n_rows or 1, n_in]."""
    if name not in importance.in_sum2:
        return np.ones((1, 1))
    counts = np.maximum(importance.counts[name], 1)
    means = importance.in_sum2[name] / counts[:, None]
    return np.asarray(means[rows // max(1, n_rows // len(means))], np.float32)
