"""What the kernels gain here: products of IQ1_M matrices with one vector, by ggml alone and with them, in turns.

    python -m luq_gguf.kernels.measure LIBRARIES KERNELS THREADS SECONDS

prints pairs of seconds as JSON. It runs as a child process: loading the kernels changes the process for good.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luq_gguf.core import machine
from luq_gguf.core.errors import KernelsError
from luq_gguf.core.speeds import Ratio
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.ggml_products import BLOCK, IQ1_M, Ggml, Product, random_blocks
from luq_gguf.method.metrics.intervals import paired_ratio

N_ROWS, N_COLUMNS = 18944, 3584  # the largest matrix of a 7B model
N_MATRICES = 8  # together beyond the caches
SECONDS = 5.0


@dataclass(frozen=True)
class Gain(Ratio):
    """How many times as fast as ggml alone the kernels are, and what was measured."""

    stock_weights_per_second: float
    weights_per_second: float
    conditions: str


def gain(library: Path, threads: int | None = None, seconds: float = SECONDS) -> Gain:
    """Measure how many times as fast as ggml alone the kernels are.

    Raises ToolsError without the pinned llama.cpp, KernelsError where its ggml does not take the library.
    """
    threads = threads or machine.cores()
    folder = tools.find().tools.parent / "lib"
    command = [tools.python(), "-m", __name__, str(folder), str(library), str(threads), str(seconds)]
    output = child.run(command, child.Failure(KernelsError, "The measurement", "The lines above are its own."))
    pairs = np.array(json.loads(output.splitlines()[-1]))
    conditions = f"matrices of {N_ROWS} x {N_COLUMNS} times a vector, {threads} threads, {len(pairs)} pairs in turns"
    rates = (N_ROWS * N_COLUMNS * N_MATRICES / np.median(pairs, axis=0)).tolist()
    ratio = paired_ratio(pairs[:, 1], pairs[:, 0])
    return Gain(**vars(ratio), stock_weights_per_second=rates[0], weights_per_second=rates[1], conditions=conditions)


def _pairs(folder: Path, library: Path, threads: int, seconds: float) -> list[tuple[float, float]]:
    ggml = Ggml(folder)
    taken = ggml.load(library)
    kernels = ggml.kernels()
    if not taken or kernels is None:
        sys.exit("ggml did not load the kernels.")
    rng = np.random.default_rng(0)
    rows = random_blocks(rng, N_ROWS // 64, N_COLUMNS)
    blocks = np.tile(rows, (64, 1))
    assert blocks.shape == (N_ROWS, N_COLUMNS // BLOCK * IQ1_M.n_bytes)
    sides = [Product(ggml, kind, [blocks] * N_MATRICES, (1, N_COLUMNS), threads) for kind in (ggml.stock(), kernels)]
    for side in sides:
        side.set(rng.standard_normal((1, N_COLUMNS), np.float32))
        side.compute()
    end, pairs = time.monotonic() + seconds, list[tuple[float, float]]()
    while time.monotonic() < end or len(pairs) < 3:
        pairs.append((_time(sides[0]), _time(sides[1])))
    return pairs


def _time(side: Product) -> float:
    start = time.perf_counter()
    side.compute()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(_pairs(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
