"""Measures how fast each tensor type decodes on this CPU, by products of a model's largest matrix with one vector:
seconds, where layers in llama-bench take minutes (`type_benchmark`). Enough to tell types that are slow here.

    python -m luq_gguf.benchmarking.type_products LIBRARIES THREADS COLUMNS ROWS MATRICES TYPE ...

is run as a child process and prints seconds by type as JSON. Each type lies where llama.cpp puts it: in the first of
the CPU backend's own forms that has it, else as it is in a file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from statistics import median

import gguf
import numpy as np

from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core import atomic, json_input, json_output, machine, paths
from luq_gguf.core.errors import RunnerError, ToolsError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.ggml_products import BlockType, Ggml, Product

BYTES = 96 * 2**20  # of the matrices in Q4_K: more than the caches of CPUs hold
ROUNDS = 9


def decode_rates(
    geometry: Geometry, threads: int | None, types: Collection[str], reporter: Reporter
) -> dict[str, float] | None:
    """Return weights per second of one token's products by type, kept per machine; None without the pinned build, whose
    libraries are needed."""
    try:
        build = tools.pinned_build()
    except ToolsError:
        return None
    n_in, n_out = max((t.shape[:2] for t in geometry.source.tensors if t.name in geometry.matrices), key=np.prod)
    threads = threads or machine.cores()
    n_matrices = max(1, -(-BYTES * 8 // int(4.5 * n_in * n_out)))
    cpu = (machine.cpu_name(), machine.cpu_features(), threads)
    path = paths.cache("speed") / f"products-{hash_of(cpu, build.name, n_in, n_out, BYTES, ROUNDS)}.json"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):
        known = {str(kind): float(rate) for kind, rate in json_input.read(path).items()}
    missing = [kind for kind in types if kind not in known and geometry.fits(kind)]
    if missing:
        reporter.info(f"speed of tensor types on this CPU, about a second each: {', '.join(missing)}")
        sizes = (str(threads), str(n_in), str(n_out), str(n_matrices))
        command = [tools.python(), "-m", __name__, str(build / "llama_cpp" / "lib"), *sizes, *missing]
        output = child.run(command, child.Failure(RunnerError, "The measurement of tensor types"))
        seconds = json.loads(output.splitlines()[-1])
        known |= {kind: n_in * n_out * n_matrices / value for kind, value in seconds.items()}
        with suppress(OSError):  # a cache that cannot be written
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json_output.indented(known))
    return known


def _seconds(ggml: Ggml, kind: str, n_in: int, n_out: int, n_matrices: int, threads: int) -> float:
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    of = BlockType(number.value, 256 // block * size)
    rng = np.random.default_rng(0)
    row = rng.integers(0, 256, n_in // block * size, np.uint8)
    matrix = np.tile(row, (n_out, 1))
    product = Product(ggml, ggml.buffer_for(of, n_in, n_out), [matrix] * n_matrices, (1, n_in), threads, of)
    product.set(rng.standard_normal((1, n_in)).astype(np.float32))
    product.compute()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        product.compute()
        taken.append(time.perf_counter() - started)
    product.free()
    return median(taken)


def main() -> None:
    folder, threads, n_in, n_out, n_matrices, *types = sys.argv[1:]
    ggml = Ggml(Path(folder))
    sizes = (int(n_in), int(n_out), int(n_matrices), int(threads))
    print(json.dumps({kind: _seconds(ggml, kind, *sizes) for kind in types}))


if __name__ == "__main__":
    main()
