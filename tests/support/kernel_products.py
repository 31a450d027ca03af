"""A child of the tests: loads a kernels library into a stock ggml and answers questions as JSON.

python kernel_products.py LIBRARIES KERNELS products|refusals|late|alone
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from luq_gguf.kernels.ggml import F16, F32, IQ1_M, Ggml, Product, random_blocks

SHAPES = [(1, 256), (2, 512), (3, 256), (8, 768), (33, 256), (64, 512), (2, 3, 512), (2, 2, 3, 256)]


def products(ggml: Ggml) -> list[dict]:
    """Each shape of activations with several matrices and threads, by the kernels and by ggml alone."""
    found = []
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        for n_rows, threads in ((16, 1), (48, 2), (1040, 3)):
            blocks = random_blocks(rng, n_rows, shape[-1])
            values = rng.standard_normal(shape).astype(np.float32)
            results = []
            for kind in (ggml.kernels(), ggml.stock()):
                product = Product(ggml, kind, [blocks], shape, threads)
                product.set(values)
                product.compute()
                results.append(product.result())
                if kind == ggml.kernels():
                    lossless = bool((product.read_weights() == blocks.reshape(-1)).all())
                product.free()
            size = np.abs(values) @ np.abs(ggml.dequantize(blocks)).T
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
    stacked = product.tensor(context, IQ1_M, (3, 32, 512))
    asked["experts"] = ggml.ggml_mul_mat_id(context, stacked, experts, ids)
    asked["stack"] = ggml.ggml_mul_mat(context, stacked, product.tensor(context, F32, (3, 2, 512)))
    odd = product.tensor(context, IQ1_M, (40, 512))
    asked["40 rows"] = ggml.ggml_mul_mat(context, odd, product.activations)
    for tensor in (stacked, odd, view):
        buffer(tensor, weights)
    return {name: bool(ggml.ggml_backend_dev_supports_op(device, op)) for name, op in asked.items()}


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
    print(json.dumps({"taken": taken, "listed": ggml.kernels() is not None, "answer": answer}))


if __name__ == "__main__":
    main()
