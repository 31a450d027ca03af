"""The kernels' test program: built in several ways, and spoken to through its pipes."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

from luq_gguf.kernels import build
from luq_gguf.llamacpp import ggml_products as ggml

FORMS = {"as in use": 0, "column by column": 1, "matrix": 2}


def compile_program(folder: Path, *arguments: str, targets: tuple[str, ...] = ("kernels-run",)) -> Path:
    """The folder of the built targets."""
    build.compile_sources(folder, "-DLUQ_TESTS=ON", *arguments, targets=targets)
    return folder / "tests"


def sanitized(*names: str) -> str:
    """CMake's argument for a build with sanitizers that stop at what they find."""
    flags = f"-g -O2 -fsanitize={','.join(names)} -fno-sanitize-recover=all -fno-omit-frame-pointer"
    return f"-DCMAKE_CXX_FLAGS_RELEASE={flags}"


def aarch64(folder: Path) -> tuple[list[str], list[str]] | None:
    """CMake's arguments for ARM, and what runs the result; None where a compiler or the emulator is missing."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None and importlib.util.find_spec("ziglang"):
        script = folder / "zig-c++"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang c++ -target aarch64-linux-musl "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        compiler = str(script)
    if compiler is None or emulator is None:
        return None
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
    return [*system, f"-DCMAKE_CXX_COMPILER={compiler}"], [emulator, "-cpu", "max"]


def write_grid(path: Path, stock: ggml.Ggml) -> Path:
    """The 2048 rows of 8 weights, as ggml's dequantization shows them."""
    numbers = np.arange(2048).reshape(64, 32)
    blocks = np.zeros((64, ggml.IQ1_M.n_bytes), np.uint8)
    blocks[:, :32] = numbers & 255
    high = numbers >> 8
    blocks[:, 32:48] = high[:, ::2] | high[:, 1::2] << 4
    blocks[:, 53], blocks[:, 55] = 0xC0, 0x30  # d = 1
    weights = stock.dequantize(blocks) - 0.125
    assert set(np.unique(weights)) == {-1, 0, 1}
    path.write_bytes(weights.astype(np.int8).tobytes())
    return path


class Program:
    """A running kernels-run."""

    def __init__(self, folder: Path, grid: Path, emulator: list[str] | None = None) -> None:
        self._command = [*(emulator or []), str(folder / "kernels-run")]
        listed = subprocess.run(self._command, capture_output=True, text=True, check=True)
        self.paths = [line.split()[0] for line in listed.stdout.splitlines()]
        self._child = subprocess.Popen([*self._command, str(grid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def compute(
        self,
        path: str,
        blocks: np.ndarray,
        q8: np.ndarray,
        threads: int = 1,
        form: int = 0,
        kind: ggml.BlockType = ggml.IQ1_M,
    ) -> np.ndarray:
        """Products [column][row]; asserts that packing lost nothing and that the path was run."""
        n_rows, n_columns, n = len(blocks), kind.columns(blocks), len(q8)
        head = struct.pack("16s6i", path.encode(), n_rows, n_columns, n, threads, form, kind == ggml.IQ1_S)
        self._child.stdin.write(head + blocks.tobytes() + q8.tobytes())
        self._child.stdin.flush()
        answer = self._child.stdout.read(4 + 4 * n * n_rows)
        assert len(answer) == 4 + 4 * n * n_rows, f"the program ended with {self._child.wait()}"
        assert struct.unpack("i", answer[:4])[0] == 1, "packed and unpacked blocks differ, or the path was not run"
        return np.frombuffer(answer[4:], np.float32).reshape(n, n_rows)

    def close(self) -> int:
        self._child.stdin.close()
        self._child.stdout.close()
        return self._child.wait(timeout=60)
