#!/usr/bin/env python3
"""Does a build of llama.cpp compute on this CPU?

    python vendor/selftest.py LIBRARIES [TOOLS]      a table of what was tried; exit code 1 where something failed

In child processes, since what fails may crash: for every tensor type that files are planned with, matrix products
through each buffer type that the CPU backend offers for it (plain, repacked, AMX), with 1 and with 64 columns, with
columns in two batches, and of two matrices at once, with several threads, against the product of the dequantized
weights. Then, where tools are given, a tiny file through llama-quantize and llama-bench. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import asdict, dataclass
from operator import mul
from pathlib import Path

# Numbers of enum ggml_type: what luq-gguf plans with, and what llama-quantize's file types give.
TYPES = {
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13,
    "Q6_K": 14, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22,
    "IQ4_XS": 23, "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35,
}  # fmt: skip
N_IN, N_OUT = 512, 64  # AMX takes rows in pairs of tiles of 16; blocks have up to 256 weights
# Products: columns, how many batches they come in, and how many matrices the rows are divided into.
SHAPES = ((1, 1, 1), (64, 1, 1), (64, 2, 1), (64, 2, 2))
COMPARED = (0, 1, 7, 8, 31, 32, 62, 63)  # of 64 columns: first, last, and where tiles meet
THREADS = 2  # also those that did not initialize a CPU feature must be able to use it
TOLERANCE = 0.03  # of the product's norm: activations are rounded to 8 bits, which costs about 0.005
SECONDS = 120


@dataclass(frozen=True)
class Result:
    """One product, or the tiny file. `failure` is empty where it succeeded; `error` is relative to the product's
    norm."""

    type: str
    buffer: str
    columns: int
    batches: int = 1
    matrices: int = 1
    failure: str = ""
    error: float | None = None

    @property
    def ok(self) -> bool:
        return not self.failure

    def __str__(self) -> str:
        if self.buffer == "file":
            return f"a tiny {self.type} file {self.failure or 'ran'}"
        of = f" of {self.matrices} matrices" if self.matrices > 1 else ""
        where = f"{self.type}{of} in buffer {self.buffer} with {self.columns} column{'s' * (self.columns > 1)}"
        where += f" in {self.batches} batches" if self.batches > 1 else ""
        return f"{where} {self.failure or 'computes'}"


def run(libraries: Path, tools: Path | None = None, temporary: Path | None = None) -> list[Result]:
    """Compute all products with the libraries of a folder, and run the tiny file with its tools, in a folder for
    temporary files. A crash costs one result: a new child continues after it. Raises OSError where the file cannot be
    written."""
    results: list[Result] = []
    begin = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--products", str(libraries), str(begin)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            out, err = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        results += [Result(**line["result"]) for line in lines if "result" in line]
        if child.returncode == 0:
            break
        last = next((line["begin"] for line in reversed(lines) if "begin" in line), None)
        how = ended(child.returncode)
        if last is None:  # it did not come to the first product
            told = " ".join(err.split()[-40:])
            return [*results, Result("ggml", "CPU", 0, failure=f"cannot be loaded: it {how} {told}".strip())]
        number, *what = last
        results.append(Result(*what, failure=how))
        begin = number
    return [*results, *(run_tools(tools, temporary) if tools else ())]


def ended(code: int) -> str:
    """Return in words how a child ended, from its return code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    if number == signal.SIGKILL:
        return "was killed (perhaps because memory ran out)"
    crashes = ("SIGSEGV", "SIGILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGTRAP")
    words = (signal.strsignal(number) or number.name).lower()
    return f"crashed ({words})" if number.name in crashes else f"was killed ({words})"


# ---- the child: products ----


class _Params(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class _Traits(ctypes.Structure):  # the first fields of ggml_type_traits
    _fields_ = [
        ("type_name", c_char_p),
        ("block", c_int64),
        ("interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    ]


_SIGNATURES = {
    "ggml_cpu_init": (None, []),
    "ggml_init": (c_void_p, [_Params]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_3d": (c_void_p, [c_void_p, c_int, c_int64, c_int64, c_int64]),
    "ggml_permute": (c_void_p, [c_void_p, c_void_p, c_int, c_int, c_int, c_int]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_get_type_traits": (POINTER(_Traits), [c_int]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
}


class _Ggml:
    """The functions of ggml's libraries in a folder that this test needs."""

    def __init__(self, folder: Path) -> None:
        libraries = [ctypes.CDLL(str(folder / f"lib{name}.so")) for name in ("ggml-base", "ggml-cpu")]
        for name, (result, arguments) in _SIGNATURES.items():
            function = next(getattr(library, name) for library in libraries if hasattr(library, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.ggml_cpu_init()
        self.device = self.ggml_backend_reg_dev_get(self.ggml_backend_cpu_reg(), 0)

    def buffers(self) -> list[tuple[str, int]]:
        """Return the CPU backend's buffer types: the plain one, and those that keep weights in another form."""
        plain = self.ggml_backend_cpu_buffer_type()
        address = self.ggml_backend_reg_get_proc_address(
            self.ggml_backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts"
        )
        found = [plain]
        if address:
            for buffer in iter(ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self.device)):
                if not buffer:
                    break
                found.append(buffer)
        return [(self.ggml_backend_buft_name(buffer).decode(), buffer) for buffer in found]


def _products(folder: Path, begin: int) -> None:
    """Say each product before it is begun, and its result."""
    ggml = _Ggml(folder)
    random.seed(0)
    inputs = array("f", (random.gauss(0, 1) for _ in range(max(columns for columns, *_ in SHAPES) * N_IN)))
    weights = array("f", (random.gauss(0, 0.05) for _ in range(N_OUT * N_IN)))
    ones = array("f", [1.0] * N_IN)
    number = 0
    for kind, code in TYPES.items():
        quantized, wanted = None, array("f")
        for name, buffer in ggml.buffers():
            for shape in SHAPES:
                number += 1
                if number <= begin:
                    continue
                if quantized is None:
                    quantized = _quantize(ggml, code, weights, ones)
                    wanted = _reference(ggml, code, quantized, inputs)
                _say({"begin": [number, kind, name, *shape]})
                product = _Product(ggml, code, buffer, *shape)
                if product.offered:
                    error = _error(product.compute(quantized, inputs), wanted, *shape)
                    wrong = "" if error < TOLERANCE else f"computes something else (off by {error:.2g} of its norm)"
                    result = Result(kind, name, *shape, failure=wrong, error=error)
                    _say({"result": asdict(result)})
                product.free()


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def _address(values: array[float]) -> int:
    return values.buffer_info()[0]


def _quantize(ggml: _Ggml, code: int, weights: array[float], ones: array[float]) -> ctypes.Array[ctypes.c_char]:
    n_bytes = N_OUT * ggml.ggml_row_size(code, N_IN)
    if code in _RANDOM:
        return ctypes.create_string_buffer(_random_blocks(code, n_bytes), n_bytes)
    blocks = ctypes.create_string_buffer(n_bytes)
    ggml.ggml_quantize_chunk(code, _address(weights), ctypes.addressof(blocks), 0, N_OUT, N_IN, _address(ones))
    return blocks


# Types whose quantizers take seconds to begin: random blocks of 256 weights, but for a scale of the size that models
# have. Values are the bytes of a block.
_RANDOM = {TYPES["IQ2_XXS"]: 66, TYPES["IQ2_XS"]: 74, TYPES["IQ2_S"]: 82, TYPES["IQ1_S"]: 50, TYPES["IQ1_M"]: 56}


def _random_blocks(code: int, n_bytes: int) -> bytes:
    blocks = bytearray(random.randbytes(n_bytes))
    for at in range(0, n_bytes, _RANDOM[code]):
        scale = struct.pack("<e", random.uniform(1e-3, 1e-2))
        if code == TYPES["IQ1_M"]:  # a nibble of the scale in the upper half of each of the last four words
            for word, nibble in enumerate((scale[0] & 15, scale[0] >> 4, scale[1] & 15, scale[1] >> 4)):
                blocks[at + 49 + 2 * word] = blocks[at + 49 + 2 * word] & 15 | nibble << 4
        else:
            blocks[at : at + 2] = scale
    return bytes(blocks)


def _reference(ggml: _Ggml, code: int, blocks: ctypes.Array[ctypes.c_char], inputs: array[float]) -> array[float]:
    """[column][row] products of the dequantized weights, in Python's floats, of the columns that are compared."""
    values = array("f", bytes(4 * N_OUT * N_IN))
    ggml.ggml_get_type_traits(code).contents.to_float(ctypes.addressof(blocks), _address(values), len(values))
    rows = [values[at : at + N_IN] for at in range(0, len(values), N_IN)]
    columns = [inputs[c * N_IN : (c + 1) * N_IN] for c in COMPARED]
    return array("f", (sum(map(mul, row, column)) for column in columns for row in rows))


def _error(found: array[float], wanted: array[float], columns: int, batches: int, matrices: int) -> float:
    """The norm of the difference over the norm; infinite where a value is not finite."""
    rows = N_OUT // matrices
    difference = norm = 0.0
    for k, column in enumerate(COMPARED):
        if column < columns:
            batch, place = divmod(column, columns // batches)
            if matrices > 1:
                place, batch = divmod(column, batches)
            ours = found[(batch * (columns // batches) + place) * rows :][:rows]
            theirs = wanted[k * N_OUT + (batch * rows if matrices > 1 else 0) :][:rows]
            difference += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
            norm += sum(b * b for b in theirs)
    off = difference / norm
    return off**0.5 if off == off else float("inf")


class _Product:
    """A matrix in a buffer type, and its product with so many columns; `offered` is whether the backend has it.

    Of several matrices, each has a batch of the columns, which take turns in memory as those of attention heads do.
    """

    def __init__(self, ggml: _Ggml, code: int, buffer: int, columns: int, batches: int, matrices: int) -> None:
        self._ggml, self._columns, self._rows = ggml, columns, N_OUT // matrices
        self._backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self._backend, THREADS)
        held, rest = self._contexts = [ggml.ggml_init(_Params(1 << 20, None, True)) for _ in range(2)]
        self._weights = ggml.ggml_new_tensor_3d(held, code, N_IN, N_OUT // matrices, matrices)
        if matrices == 1:
            self._inputs = in_order = ggml.ggml_new_tensor_3d(rest, 0, N_IN, columns // batches, batches)
        else:
            self._inputs = ggml.ggml_new_tensor_3d(rest, 0, N_IN, batches, columns // batches)
            in_order = ggml.ggml_permute(rest, self._inputs, 0, 2, 1, 3)
        self._result = ggml.ggml_mul_mat(rest, self._weights, in_order)
        self._graph = ggml.ggml_new_graph(rest)
        ggml.ggml_build_forward_expand(self._graph, self._result)
        self._buffers = [
            ggml.ggml_backend_alloc_ctx_tensors_from_buft(held, buffer),
            ggml.ggml_backend_alloc_ctx_tensors_from_buft(rest, ggml.ggml_backend_cpu_buffer_type()),
        ]
        self.offered = bool(ggml.ggml_backend_dev_supports_op(ggml.device, self._result))

    def compute(self, blocks: ctypes.Array[ctypes.c_char], inputs: array[float]) -> array[float]:
        ggml, out = self._ggml, array("f", bytes(4 * self._rows * self._columns))
        ggml.ggml_backend_tensor_set(self._weights, ctypes.addressof(blocks), 0, len(blocks))
        ggml.ggml_backend_tensor_set(self._inputs, _address(inputs), 0, 4 * N_IN * self._columns)
        if ggml.ggml_backend_graph_compute(self._backend, self._graph):
            return array("f", [float("nan")] * len(out))
        ggml.ggml_backend_tensor_get(self._result, _address(out), 0, 4 * len(out))
        return out

    def free(self) -> None:
        for buffer in self._buffers:
            self._ggml.ggml_backend_buffer_free(buffer)
        for context in self._contexts:
            self._ggml.ggml_free(context)
        self._ggml.ggml_backend_free(self._backend)


# ---- the tiny file ----


def tiny_gguf(path: Path) -> None:
    """Write a llama model of one layer with random 16-bit weights and no vocabulary, 1 MiB: the least that libllama
    loads."""
    width, vocabulary, heads = 256, 64, 4
    matrix, norm = (1, lambda n: struct.pack(f"<{n}e", *(random.gauss(0, 0.05) for _ in range(n)))), (0, None)
    tensors = {"token_embd.weight": ((width, vocabulary), matrix), "output_norm.weight": ((width,), norm)}
    tensors |= {f"blk.0.{name}_norm.weight": ((width,), norm) for name in ("attn", "ffn")}
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors |= {f"blk.0.{name}.weight": ((width, width), matrix) for name in names}
    metadata: dict[str, int | float | str] = {
        "general.architecture": "llama", "general.alignment": 32, "llama.context_length": 128,
        "llama.embedding_length": width, "llama.block_count": 1, "llama.feed_forward_length": width,
        "llama.attention.head_count": heads, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads, "llama.vocab_size": vocabulary,
        "tokenizer.ggml.model": "no_vocab",
    }  # fmt: skip
    random.seed(1)
    header, data = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)), b""
    for key, value in metadata.items():
        header += struct.pack("<Q", len(key)) + key.encode()
        if isinstance(value, str):
            header += struct.pack("<IQ", 8, len(value)) + value.encode()
        else:
            header += struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)
    for name, (shape, (code, draw)) in tensors.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        header += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", code, len(data))
        data += draw(n) if draw else struct.pack(f"<{n}f", *[1.0] * n)
        data += bytes(-len(data) % 32)
    path.write_bytes(header + bytes(-len(header) % 32) + data)


def run_tools(tools: Path, temporary: Path | None = None) -> Iterator[Result]:
    """Quantize a tiny file with llama-quantize and run it with llama-bench, which computes with libllama."""
    with tempfile.TemporaryDirectory(dir=temporary) as name:
        source, made = Path(name) / "f16.gguf", Path(name) / "quantized.gguf"
        tiny_gguf(source)
        threads = str(min(THREADS, os.cpu_count() or 1))
        for kind in ("Q4_K_M", "Q8_0", "Q4_0"):
            for command in (
                [tools / "llama-quantize", source, made, kind],
                [tools / "llama-bench", "-m", made, "-p", "64", "-n", "2", "-r", "1", "-t", threads],
            ):
                try:
                    child = subprocess.run(
                        list(map(str, command)), capture_output=True, text=True, errors="replace", timeout=SECONDS
                    )
                    how = (
                        ""
                        if child.returncode == 0
                        else f"{ended(child.returncode)} {' '.join(child.stderr.split()[-30:])}"
                    )
                except subprocess.TimeoutExpired:
                    how = f"did not finish within {SECONDS} seconds"
                except OSError as error:
                    how = f"cannot be run: {error.strerror}"
                if how:
                    yield Result(kind, "file", 0, failure=f"in {Path(command[0]).name}: {how.strip()}")
                    break
            else:
                yield Result(kind, "file", 0)


def main() -> int:
    if sys.argv[1] == "--products":
        _products(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    results = run(*map(Path, sys.argv[1:3]))
    for result in results:
        print(result if result.error is None else f"{result} (off by {result.error:.4f})")
    return int(not all(result.ok for result in results))


if __name__ == "__main__":
    sys.exit(main())
