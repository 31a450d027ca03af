"""Computes the products of K-means (method/kmeans.py) where they are fastest: on the device of the pass, and on a CPU
in its bfloat16 units, where the vectors were computed in these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from luq_gguf.core import process_state
from luq_gguf.hf import devices
from luq_gguf.method.kmeans import Product


@contextmanager
def fastest(vectors: torch.dtype, device: torch.device) -> Iterator[Product]:
    """Yield the product for vectors that were computed in a type, on a device.

    Bfloat16 units round what they multiply to 8 bits and add in float32: of two centers that are about as far from a
    vector, another one may be the nearest. Each product is computed by the thread that calls it alone.
    """
    on_gpu = device.type != "cpu"
    if not on_gpu and not (vectors == torch.bfloat16 and devices.has_fast_bfloat16(device)):
        yield np.matmul
        return

    def product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        result: np.ndarray = (torch.from_numpy(one).to(device) @ torch.from_numpy(other).to(device)).cpu().numpy()
        return result

    with process_state.TORCH:
        precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
        torch.set_num_threads(1)
        if not on_gpu:
            torch.set_float32_matmul_precision("medium")
        try:
            yield product
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads(threads)
