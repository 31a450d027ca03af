"""Products of IQ1_M and IQ1_S matrices by a stock ggml, with and without the kernels: to measure and to test them.

Through ctypes, on the libraries of the pinned build. Use it in a child process where a failed assertion must not end
the caller.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK, Q8_BYTES = 256, 292
F32, F16, Q8_K = 0, 1, 15  # numbers of enum ggml_type
BUFFER_NAME = "CPU_LUQ"
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_TENSOR_OVERHEAD = 1 << 20  # bytes for the headers of a few tensors and a graph


class BlockType(NamedTuple):
    """The number in enum ggml_type, and the bytes of a block of 256 weights."""

    number: int
    n_bytes: int

    def columns(self, blocks: Bytes) -> int:
        """Return the number of weights in each row of bytes."""
        return int(blocks.shape[1]) // self.n_bytes * BLOCK


IQ1_M, IQ1_S = BlockType(29, 56), BlockType(19, 50)


class _Params(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class _Traits(ctypes.Structure):  # the first fields of ggml_type_traits
    _fields_ = [
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    ]


_FROM_FLOAT = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)
_VEC_DOT = ctypes.CFUNCTYPE(None, c_int, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_size_t, c_int)


class _CpuTraits(ctypes.Structure):
    _fields_ = [("from_float", _FROM_FLOAT), ("vec_dot", _VEC_DOT), ("vec_dot_type", c_int), ("nrows", c_int64)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_cpu_init": (None, []),
    "ggml_init": (c_void_p, [_Params]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor": (c_void_p, [c_void_p, c_int, c_int, POINTER(c_int64)]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_mul_mat_id": (c_void_p, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "ggml_get_rows": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_view_2d": (c_void_p, [c_void_p, c_void_p, c_int64, c_int64, c_size_t, c_size_t]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_get_type_traits": (POINTER(_Traits), [c_int]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_buffer_get_size": (c_size_t, [c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_get_type_traits_cpu": (POINTER(_CpuTraits), [c_int]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_load": (c_void_p, [c_char_p]),
}


class Ggml:
    """The loaded libraries of a folder; `load` adds the kernels."""

    def __init__(self, folder: Path) -> None:
        self._libraries = [ctypes.CDLL(str(folder / f"lib{name}.so")) for name in ("ggml-base", "ggml-cpu", "ggml")]
        for name, (result, arguments) in _SIGNATURES.items():
            function = next(getattr(library, name) for library in self._libraries if hasattr(library, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.ggml_cpu_init()  # fills tables that ggml's own products look halves up in

    def __getattr__(self, name: str) -> Any:  # functions that __init__ has set
        raise AttributeError(name)

    def load(self, library: Path) -> bool:
        """Load a library as GGML_BACKEND_PATH does, and return whether ggml accepted it."""
        return bool(self.ggml_backend_load(str(library).encode()))

    def stock(self) -> int:
        """Return the buffer type of the CPU backend."""
        return int(self.ggml_backend_cpu_buffer_type())

    def kernels(self) -> int | None:
        """Return the kernels' buffer type, if the CPU backend lists it."""
        named = (each for each in self._extra() if self.ggml_backend_buft_name(each) == BUFFER_NAME.encode())
        return next(named, None)

    def buffer_for(self, kind: BlockType, n_in: int, n_out: int) -> int:
        """Return the buffer type that llama.cpp puts a matrix of this type and shape in."""
        return next((each for each in self._extra() if self._offers(each, kind, n_in, n_out)), self.stock())

    def _extra(self) -> list[int]:
        """The CPU backend's buffer types that keep weights in another form than a file's."""
        address = self.ggml_backend_reg_get_proc_address(
            self.ggml_backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts"
        )
        listed = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self._device) if address else ()
        return [int(each) for each in itertools.takewhile(bool, iter(listed))]

    @property
    def _device(self) -> int:
        return int(self.ggml_backend_reg_dev_get(self.ggml_backend_cpu_reg(), 0))

    def _offers(self, buffer_type: int, kind: BlockType, n_in: int, n_out: int) -> bool:
        """Whether the backend has the product of a matrix in this buffer type with a vector."""
        held, rest = (self.ggml_init(_Params(_TENSOR_OVERHEAD, None, no_alloc=True)) for _ in range(2))
        weights = self.ggml_new_tensor(held, kind.number, 2, (c_int64 * 2)(n_in, n_out))
        vector = self.ggml_new_tensor(rest, F32, 2, (c_int64 * 2)(n_in, 1))
        result = self.ggml_mul_mat(rest, weights, vector)
        buffer = self.ggml_backend_alloc_ctx_tensors_from_buft(held, buffer_type)
        offered = bool(self.ggml_backend_dev_supports_op(self._device, result))
        self.ggml_backend_buffer_free(buffer)
        for context in (held, rest):
            self.ggml_free(context)
        return offered

    def dequantize(self, blocks: Bytes, kind: BlockType = IQ1_M) -> Floats:
        """Convert blocks, in rows of bytes, to weights."""
        values = np.empty((len(blocks), kind.columns(blocks)), np.float32)
        to_float = self.ggml_get_type_traits(kind.number).contents.to_float
        to_float(np.ascontiguousarray(blocks).ctypes.data, values.ctypes.data, values.size)
        return values

    def quantize(self, activations: Floats) -> Bytes:
        """Convert rows of activations to Q8_K blocks, as ggml does before a product."""
        rows = np.ascontiguousarray(activations, np.float32)
        blocks = np.zeros((len(rows), rows.shape[1] // BLOCK * Q8_BYTES), np.uint8)
        from_float = self.ggml_get_type_traits_cpu(Q8_K).contents.from_float
        for row, out in zip(rows, blocks, strict=True):
            from_float(row.ctypes.data, out.ctypes.data, len(row))
        return blocks

    def dot(self, blocks: Bytes, q8: Bytes, kind: BlockType = IQ1_M) -> Floats:
        """Return ggml's own products of rows of blocks with rows of Q8_K: [row of q8][row of blocks]."""
        n = kind.columns(blocks)
        out = np.empty((len(q8), len(blocks)), np.float32)
        vec_dot = self.ggml_get_type_traits_cpu(kind.number).contents.vec_dot
        for i, y in enumerate(q8):
            for j, x in enumerate(blocks):
                vec_dot(n, out[i, j:].ctypes.data, 0, x.ctypes.data, 0, y.ctypes.data, 0, 1)
        return out


class Product:
    """Matrices of a type in a buffer type, each multiplied by the same activations in one graph.

    `blocks`: matrices as rows of bytes; `shape`: of the activations, columns last, as numpy has them.
    """

    def __init__(
        self,
        ggml: Ggml,
        buffer_type: int,
        blocks: Sequence[Bytes],
        shape: tuple[int, ...],
        threads: int,
        kind: BlockType = IQ1_M,
    ) -> None:
        self._ggml = ggml
        self.backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self.backend, threads)
        self._contexts = [ggml.ggml_init(_Params(_TENSOR_OVERHEAD, None, no_alloc=True)) for _ in range(2)]
        weights, rest = self._contexts
        self.weights = [self.tensor(weights, kind.number, (len(b), kind.columns(b))) for b in blocks]
        self.activations = self.tensor(rest, F32, shape)
        self.results = [ggml.ggml_mul_mat(rest, w, self.activations) for w in self.weights]
        self._graph = ggml.ggml_new_graph(rest)
        for result in self.results:
            ggml.ggml_build_forward_expand(self._graph, result)
        self.buffers = [
            ggml.ggml_backend_alloc_ctx_tensors_from_buft(weights, buffer_type),
            ggml.ggml_backend_alloc_ctx_tensors_from_buft(rest, ggml.stock()),
        ]
        self._shapes = [(*shape[:-1], len(b)) for b in blocks]
        for tensor, matrix in zip(self.weights, blocks, strict=True):
            contiguous = np.ascontiguousarray(matrix)
            ggml.ggml_backend_tensor_set(tensor, contiguous.ctypes.data, 0, contiguous.nbytes)

    def tensor(self, context: int, kind: int, shape: tuple[int, ...]) -> int:
        sizes = (c_int64 * len(shape))(*reversed(shape))
        return int(self._ggml.ggml_new_tensor(context, kind, len(shape), sizes))

    def set(self, activations: Floats) -> None:
        rows = np.ascontiguousarray(activations, np.float32)
        self._ggml.ggml_backend_tensor_set(self.activations, rows.ctypes.data, 0, rows.nbytes)

    def compute(self) -> None:
        if self._ggml.ggml_backend_graph_compute(self.backend, self._graph):
            raise RuntimeError("ggml could not compute the graph")

    def result(self, which: int = 0) -> Floats:
        out = np.empty(self._shapes[which], np.float32)
        self._ggml.ggml_backend_tensor_get(self.results[which], out.ctypes.data, 0, out.nbytes)
        return out

    def read_weights(self, which: int = 0) -> Bytes:
        """Return the matrix as it is in a file."""
        out = np.empty(self._ggml.ggml_nbytes(self.weights[which]), np.uint8)
        self._ggml.ggml_backend_tensor_get(self.weights[which], out.ctypes.data, 0, out.nbytes)
        return out

    def free(self) -> None:
        for buffer in self.buffers:
            self._ggml.ggml_backend_buffer_free(buffer)
        for context in self._contexts:
            self._ggml.ggml_free(context)
        self._ggml.ggml_backend_free(self.backend)


def random_blocks(rng: np.random.Generator, n_rows: int, n_columns: int, kind: BlockType = IQ1_M) -> Bytes:
    """Return rows of random blocks, with scales d of the size that models have."""
    blocks = rng.integers(0, 256, (n_rows, n_columns // BLOCK, kind.n_bytes), np.uint8)
    d = rng.uniform(1e-3, 1e-2, blocks.shape[:2]).astype(np.float16).view(np.uint16)
    if kind == IQ1_S:
        blocks[..., 0], blocks[..., 1] = d & 255, d >> 8
        return blocks.reshape(n_rows, -1)
    for word in range(4):  # a nibble of d in the upper four bits of each of the last four words
        blocks[..., 49 + 2 * word] = blocks[..., 49 + 2 * word] & 15 | (d >> 4 * word & 15).astype(np.uint8) << 4
    return blocks.reshape(n_rows, -1)
