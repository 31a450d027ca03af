"""Rows of random weights in GGUF types, by ggml's own quantizers. Run as a child process by `shape_file`.

    python -m luq_gguf.llamacpp.blocks FOLDER TYPE:COLUMNS:ROWS ...

writes FOLDER/TYPE-COLUMNS.bin for each: ROWS rows of COLUMNS weights.
"""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.core import machine
from luq_gguf.llamacpp import tools


def library() -> ctypes.CDLL:
    """Load ggml of the pinned build, whose quantizers llama-quantize uses."""
    library = ctypes.CDLL(str(tools.pinned_build() / "llama_cpp" / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def random_rows(ggml: ctypes.CDLL, kind: str, n_columns: int, n_rows: int) -> bytes:
    """Return rows of normally distributed weights of a trained model's usual size; float32 weights are 1, as norms
    are."""
    if kind == "F32":
        return np.ones((n_rows, n_columns), np.float32).tobytes()
    weights = np.random.default_rng(n_columns).normal(0, 0.02, (n_rows, n_columns)).astype(np.float32)
    if kind == "F16":
        return weights.astype(np.float16).tobytes()
    return quantized_rows(ggml, kind, weights, np.ones((1, n_columns), np.float32)).tobytes()


def quantized_rows(ggml: ctypes.CDLL, kind: str, weights: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """Quantize rows of float32 weights [n_rows, n_columns] to rows of a type's bytes.

    `importance` is [n_rows or 1, n_columns or 1]; None, as llama-quantize has it where no importance is known.
    """
    number, (n_rows, n_columns) = gguf.GGMLQuantizationType[kind].value, weights.shape
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    out = np.zeros((n_rows, n_columns // block * size), np.uint8)
    weights = np.ascontiguousarray(weights, np.float32)
    columns = None
    if importance is not None:
        columns = np.ascontiguousarray(np.broadcast_to(importance, weights.shape), np.float32)
    ggml.ggml_quantize_init(number)

    def quantize(row: int) -> None:
        told = None if columns is None else columns[row].ctypes.data
        ggml.ggml_quantize_chunk(number, weights[row].ctypes.data, out[row].ctypes.data, 0, 1, n_columns, told)

    with ThreadPoolExecutor(machine.cores(logical=True)) as pool:
        list(pool.map(quantize, range(n_rows)))
    return out


def main() -> None:
    folder, ggml = Path(sys.argv[1]), library()
    for job in sys.argv[2:]:
        kind, n_columns, n_rows = job.split(":")
        rows = random_rows(ggml, kind, int(n_columns), int(n_rows))
        (folder / f"{kind}-{n_columns}.bin").write_bytes(rows)


if __name__ == "__main__":
    main()
