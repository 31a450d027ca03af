"""Rows of random weights in GGUF types, by ggml's own quantizers. Run as a child process by `shape_file`.

    python -m luq_gguf.llamacpp.blocks FOLDER TYPE:COLUMNS:ROWS ...

writes FOLDER/TYPE-COLUMNS.bin for each: ROWS rows of COLUMNS weights.
"""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


def _library() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    path = next(p for p in sorted(folder.iterdir()) if p.name.startswith(("libggml-base.", "ggml-base.")))
    library = ctypes.CDLL(str(path))
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


def random_rows(library: ctypes.CDLL, kind: str, n_columns: int, n_rows: int) -> bytes:
    """Rows of normally distributed weights of a trained model's usual size; float32 ones are 1, as norms are."""
    if kind == "F32":
        return np.ones((n_rows, n_columns), np.float32).tobytes()
    weights = np.random.default_rng(n_columns).normal(0, 0.02, (n_rows, n_columns)).astype(np.float32)
    if kind == "F16":
        return weights.astype(np.float16).tobytes()
    number = gguf.GGMLQuantizationType[kind].value
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    row_bytes = n_columns // block * size
    out, importance = np.zeros(n_rows * row_bytes, np.uint8), np.ones(n_columns, np.float32)
    library.ggml_quantize_init(number)

    def quantize(row: int) -> None:
        at = ctypes.c_int64(row * n_columns)
        library.ggml_quantize_chunk(
            number, weights.ctypes.data, out.ctypes.data, at, 1, n_columns, importance.ctypes.data
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quantize, range(n_rows)))
    return out.tobytes()


def main() -> None:
    folder, library = Path(sys.argv[1]), _library()
    for wanted in sys.argv[2:]:
        kind, n_columns, n_rows = wanted.split(":")
        rows = random_rows(library, kind, int(n_columns), int(n_rows))
        (folder / f"{kind}-{n_columns}.bin").write_bytes(rows)


if __name__ == "__main__":
    main()
