"""A child of the tests: loads a kernels library into a stock ggml and answers questions as JSON.

python kernel_products.py LIBRARIES KERNELS products|refusals|sources|late|alone
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
import tempfile
from pathlib import Path

import numpy as np

from luq_gguf.llamacpp.ggml_products import F16, F32, IQ1_M, IQ1_S, Ggml, Product, random_blocks

SHAPES = [(1, 256), (2, 512), (3, 256), (8, 768), (33, 256), (64, 512), (2, 3, 512), (2, 2, 3, 256)]


def products(ggml: Ggml) -> list[dict]:
    """Each shape of activations with several matrices and threads, by the kernels and by ggml alone."""
    found = []
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        for n_rows, threads, kind in ((16, 1, IQ1_M), (48, 2, IQ1_S), (1040, 3, IQ1_M), (1040, 2, IQ1_S)):
            blocks = random_blocks(rng, n_rows, shape[-1], kind)
            values = rng.standard_normal(shape).astype(np.float32)
            results = []
            for buffer_type in (ggml.kernels(), ggml.stock()):
                product = Product(ggml, buffer_type, [blocks], shape, threads, kind)
                product.set(values)
                product.compute()
                results.append(product.result())
                if buffer_type == ggml.kernels():
                    lossless = bool((product.read_weights() == blocks.reshape(-1)).all())
                product.free()
            size = np.abs(values) @ np.abs(ggml.dequantize(blocks, kind)).T
            apart = float((np.abs(results[0] - results[1]) / size).max())
            found.append({"shape": shape, "rows": n_rows, "threads": threads, "apart": apart, "lossless": lossless})
    return found


def refusals(ggml: Ggml) -> dict[str, bool]:
    """Whether the CPU backend says that it can compute these with weights in the kernels' buffer."""
    device = ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0)
    shape = (2, 512)
    product = Product(ggml, ggml.kernels(), [random_blocks(np.random.default_rng(0), 32, 512)], shape, 1)
    weights, context = product.weights[0], product._contexts[1]
    buffer = _buffer_of(ggml)
    half = product.tensor(context, F16, shape)
    view = ggml.ggml_view_2d(context, weights, 512, 16, 112, 0)
    ids = product.tensor(context, 26, (2, 1))
    experts = product.tensor(context, F32, (2, 1, 512))
    asked = {
        "product": product.results[0],
        "half activations": ggml.ggml_mul_mat(context, weights, half),
        "view": ggml.ggml_mul_mat(context, view, product.activations),
        "rows": ggml.ggml_get_rows(context, weights, product.tensor(context, 26, (2,))),
    }
    stacked = product.tensor(context, IQ1_M.number, (3, 32, 512))
    asked["experts"] = ggml.ggml_mul_mat_id(context, stacked, experts, ids)
    asked["stack"] = ggml.ggml_mul_mat(context, stacked, product.tensor(context, F32, (3, 2, 512)))
    odd = product.tensor(context, IQ1_M.number, (40, 512))
    asked["40 rows"] = ggml.ggml_mul_mat(context, odd, product.activations)
    for tensor in (stacked, odd, view):
        buffer(tensor, weights)
    return {name: bool(ggml.ggml_backend_dev_supports_op(device, op)) for name, op in asked.items()}


def sources(ggml: Ggml) -> dict[str, dict]:
    """Matrices repacked from memory of several kinds: what of it is resident before and after, and whether it and the
    product are what they should be."""
    blocks, found = random_blocks(np.random.default_rng(5), 1040, 4096), {}
    values = np.random.default_rng(6).standard_normal((1, 4096)).astype(np.float32)
    expected = None
    kinds = {
        "mapped": (mmap.MAP_SHARED, mmap.PROT_READ),
        "private": (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
        "shared and written": (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "anonymous": None,
    }
    for name, how in kinds.items():
        with tempfile.TemporaryFile() as file:
            file.write(blocks.tobytes() if name == "mapped" else bytes(blocks.nbytes))
            file.flush()
            held = mmap.mmap(file.fileno(), 0, flags=how[0], prot=how[1]) if how else mmap.mmap(-1, blocks.nbytes)
            source = np.frombuffer(held, np.uint8).reshape(blocks.shape)
            if name != "mapped":
                source[:] = blocks
            source.sum()  # so that all of it is there
            before = _resident(source)
            product = Product(ggml, ggml.kernels(), [source], values.shape, 1)
            after = _resident(source)
            product.set(values)
            product.compute()
            expected = product.result() if expected is None else expected
            same = bool((source == blocks).all() and (product.result() == expected).all())
            product.free()
        found[name] = {"bytes": blocks.nbytes, "before": before, "after": after, "same": same}
    return found


def _resident(array: np.ndarray) -> int:
    """Bytes of the mapping that an array lies in, as the system counts them."""
    inside, address = False, array.ctypes.data
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == "Rss:":
            return 1024 * int(line.split()[1])
    raise LookupError("no such mapping")


def _buffer_of(ggml: Ggml):
    """Puts a tensor into another's buffer as the loader does when it asks: the field after the type."""

    def put(tensor: int, like: int) -> None:
        at = ctypes.sizeof(ctypes.c_void_p)  # type, padded, then buffer
        ctypes.memmove(tensor + at, like + at, at)

    return put


def main() -> None:
    libraries, kernels, what = sys.argv[1:]
    if what == "alone":  # no ggml in this process at all
        library = ctypes.CDLL(kernels)
        library.luq_kernels_register.restype = ctypes.c_char_p
        print(json.dumps(library.luq_kernels_register().decode()))
        return
    ggml = Ggml(Path(libraries))
    if what == "late":
        assert ggml.kernels() is None  # copies the list, as loading a model does
    taken = ggml.load(Path(kernels))
    answer: object = None
    if what == "products":
        answer = products(ggml)
    elif what == "refusals":
        answer = refusals(ggml)
    elif what == "sources":
        answer = sources(ggml)
    print(json.dumps({"taken": taken, "listed": ggml.kernels() is not None, "answer": answer}))


if __name__ == "__main__":
    main()
