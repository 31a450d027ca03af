"""Checks of the installation, each with what was found and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from luq_gguf.errors import LuqError
from luq_gguf.llamacpp import tools
from luq_gguf.values import Check

PACKAGES = ("torch", "transformers", "safetensors", "gguf", "numpy", "scikit-learn", "datasets", "huggingface-hub")


def examine() -> list[Check]:
    """All checks, in the order in which one would mend them."""
    return [*_python(), *_tools(), _bindings(), _converter(), *_machine()]


def _python() -> Iterator[Check]:
    supported = sys.version_info >= (3, 11)
    hint = "" if supported else "Python 3.11 or newer is needed."
    yield Check("python", supported, f"{platform.python_version()} ({sys.executable})", hint)
    for package in PACKAGES:
        try:
            yield Check(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, False, "not installed", f"pip install {package}")
    try:
        yield Check("lmms-eval", True, importlib.metadata.version("lmms-eval"))
    except importlib.metadata.PackageNotFoundError:
        yield Check("lmms-eval", True, "not installed (for --benchmarks: pip install 'luq-gguf[lmms]')")


def _tools() -> Iterator[Check]:
    try:
        llama = tools.find()
    except LuqError as error:
        yield Check("llama.cpp tools", False, error.message, error.hint)
        return
    origin = "pinned build" if llama.pinned else f"your own ({tools.ENVIRONMENT_VARIABLE})"
    wanted = tools.pin()["tools"]
    assert isinstance(wanted, list)
    for name in wanted:
        try:
            path = llama.tool(name)
            subprocess.run([path, "--help"], capture_output=True, timeout=60)
            yield Check(name, True, f"{path} ({origin})")
        except LuqError as error:
            yield Check(name, False, error.message, error.hint)
        except OSError as error:
            yield Check(name, False, f"{path}: {error.strerror}", f"Build it again: python {tools.recipe()}")
    if not any(not (llama.tools / name).is_file() for name in ("llama-server",)):
        yield Check("llama.cpp version", True, tools.version(llama))


def _bindings() -> Check:
    """libllama and libmtmd, imported in a child: a broken library may abort."""
    code = "import llama_cpp, llama_cpp.mtmd_cpp as m; m.mtmd_default_marker(); print(llama_cpp.__version__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    wanted = str(tools.pin()["version"])
    found = run.stdout.strip()
    hint = f"python {tools.recipe()} --install"
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit code {run.returncode}"
        return Check("libllama, libmtmd", False, reason, hint)
    return Check("libllama, libmtmd", found == wanted, f"llama-cpp-python {found}", "" if found == wanted else hint)


def _converter() -> Check:
    try:
        path = tools.find().converter
    except LuqError as error:
        return Check("converter", False, error.message, error.hint)
    return Check("converter", path.is_file(), str(path), "" if path.is_file() else f"python {tools.recipe()}")


def _machine() -> Iterator[Check]:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    built = not any(not check.ok for check in _tools())
    hint = "" if compiler or built else "Needed to build llama.cpp: install g++ or clang++."
    yield Check("C++ compiler", bool(compiler) or built, compiler or "none (not needed any more)", hint)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    known = [f for f in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimddp") if f" {f}" in flags]
    yield Check(
        "machine", True, f"{os.cpu_count()} cores, {pages / 1024**3:.1f} GiB, {' '.join(known) or 'no SIMD flags'}"
    )
