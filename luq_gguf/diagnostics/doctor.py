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

import psutil
from packaging.requirements import Requirement

from luq_gguf.core import machine
from luq_gguf.core.checks import Check, CheckReport
from luq_gguf.core.errors import LuqError
from luq_gguf.hf import packages
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.recipe import setup_command
from luq_gguf.llamacpp.tools import LlamaCpp

PACKAGES = ("torch", "transformers", "safetensors", "gguf", "numpy", "scipy", "datasets", "huggingface-hub")


def examine() -> CheckReport:
    """Return all checks, in the order in which one would fix them."""
    return CheckReport((*_python(), *_tools(), _bindings(), _converter(), *_machine()))


def _python() -> Iterator[Check]:
    supported = sys.version_info >= (3, 11)
    hint = "" if supported else "Python 3.11 or newer is needed."
    yield Check("python", ok=supported, found=f"{platform.python_version()} ({sys.executable})", hint=hint)
    for package in PACKAGES:
        try:
            yield Check.passed(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check.failed(package, "not installed", f"pip install {package}")
    yield from _out_of_bounds()
    yield _optional("lmms-eval", "for --benchmarks: pip install 'luq-gguf[lmms]'")
    for package in packages.OF_EXTRA:
        yield _optional(package, f"for the processors of some model families: {packages.install_line(package)}")


def _optional(package: str, use: str) -> Check:
    try:
        return Check.passed(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Check.passed(package, f"not installed ({use})")


def _out_of_bounds() -> Iterator[Check]:
    """The packages that luq-gguf needs in other versions than are installed, or that are not named already and are not
    installed."""
    for line in importlib.metadata.requires("luq-gguf") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if requirement.name not in PACKAGES:
                yield Check.failed(requirement.name, "not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            bounds = f"{installed}, but luq-gguf needs {requirement.specifier}"
            yield Check.failed(f"{requirement.name} version", bounds, f"pip install '{requirement}'")


def _tools() -> Iterator[Check]:
    try:
        llama = tools.find(untested=True)
    except LuqError as error:
        yield Check.failed("llama.cpp tools", error.message, error.hint)
        return
    origin = "pinned build" if llama.pinned else f"your own ({tools.ENVIRONMENT_VARIABLE})"
    names = tools.pin()["tools"]
    assert isinstance(names, list)
    failed = False
    for name in names:
        check = _tool(llama, name, origin)
        failed |= not check.ok
        yield check
    if not failed:
        yield Check.passed("llama.cpp version", tools.version(llama))
        yield from _build(llama)
        yield _computes(llama)


def _tool(llama: LlamaCpp, name: str, origin: str) -> Check:
    """A tool is there when it has run and ended with 0."""
    again = setup_command() if llama.pinned else "Build it again, or unset " + tools.ENVIRONMENT_VARIABLE
    try:
        path = llama.tool(name)
        tools.output(path, "--help")
    except LuqError as error:
        return Check.failed(name, error.message, error.hint)
    except subprocess.TimeoutExpired:
        return Check.failed(name, f"{path} did not finish within a minute", again)
    except OSError as error:
        return Check.failed(name, f"{path}: {error.strerror}", again)
    return Check.passed(name, f"{path} ({origin})")


def _build(llama: LlamaCpp) -> Iterator[Check]:
    """For which CPUs the pinned build is, what was left out of it, and what lies unused beside it."""
    if llama.pinned:
        facts = tools.build_facts()
        needs, left_out = facts.get("needs"), facts.get("left_out")
        assert isinstance(needs, list)
        assert isinstance(left_out, dict)
        kind = "portable, for CPUs with" if facts.get("portable") else "for CPUs with"
        without = "".join(f"; without {feature}, because {why}" for feature, why in left_out.items())
        yield Check.passed("llama.cpp build", f"{kind} {' '.join(needs)}{without}")
    unused = tools.unused_builds()
    if unused:
        size = sum(n_bytes for _, n_bytes in unused) / 1024**2
        names = ", ".join(path.name for path, _ in unused)
        hint = "`luq-gguf cache --clean` deletes them."
        yield Check.passed("older builds", f"{names} ({size:.0f} MiB), no longer used", hint)


def _computes(llama: LlamaCpp) -> Check:
    """Every type in every buffer, and a tiny file: what is tested is what is run."""
    name = "llama.cpp computes"
    try:
        test = tools.self_test(llama)
    except LuqError as error:
        return Check.failed(name, error.message, error.hint)
    if test.failures:
        more = f", and {len(test.failures) - 1} more of {test.n_results}" if len(test.failures) > 1 else ""
        hint = (
            f"Build it again without the part that fails: delete {llama.tools.parent.parent} and run {setup_command()}"
            if llama.pinned
            else f"This build is broken on this CPU: unset {tools.ENVIRONMENT_VARIABLE} to use the pinned one."
        )
        return Check.failed(name, f"{test.failures[0]}{more}", hint)
    buffers = f"; buffers: {', '.join(test.buffers)}" if test.buffers else " (statically linked, so only tiny files)"
    if test.in_batches:
        return Check.passed(
            name,
            f"correct but for batches of columns: {test.in_batches[0]}{buffers}",
            "Run models with linear or latent attention (Qwen3.5, DeepSeek) with --no-repack in this build.",
        )
    return Check.passed(name, f"all {test.n_results} products and tiny files are correct{buffers}")


def _bindings() -> Check:
    """libllama and libmtmd of the pinned build, imported in a child: a broken library may abort."""
    name, hint = "libllama, libmtmd", setup_command()
    code = "import llama_cpp, llama_cpp.mtmd_cpp as m; m.mtmd_default_marker(); print(llama_cpp.__version__)"
    try:
        environment = tools.bindings_environment()
    except LuqError as error:
        return Check.failed(name, error.message, error.hint)
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    except subprocess.TimeoutExpired:
        return Check.failed(name, "importing them did not finish within two minutes", hint)
    if run.returncode:
        missing = child.missing_library(run.stderr)
        if missing:
            return Check.failed(name, missing.message, missing.hint)
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else child.ended(run.returncode)
        return Check.failed(name, reason, hint)
    return Check.passed(name, f"llama-cpp-python {run.stdout.strip()} of the pinned build")


def _converter() -> Check:
    try:
        path = tools.find(untested=True).converter
    except LuqError as error:
        return Check.failed("converter", error.message, error.hint)
    hint = "" if path.is_file() else setup_command()
    return Check("converter", ok=path.is_file(), found=str(path), hint=hint)


def _machine() -> Iterator[Check]:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    try:
        built = bool(tools.find(untested=True))
    except LuqError:
        built = False
    hint = "" if compiler or built else "A C++ compiler is needed to build llama.cpp: install g++ or clang++."
    yield Check("C++ compiler", ok=bool(compiler) or built, found=compiler or "none (no longer needed)", hint=hint)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    features = [
        f for f in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimddp") if f" {f}" in flags
    ]
    memory = psutil.virtual_memory().total / 1024**3
    allowed = machine.cores(logical=True)
    limit = f" (this process may use {allowed})" if allowed != os.cpu_count() else ""
    yield Check.passed(
        "machine", f"{os.cpu_count()} cores{limit}, {memory:.1f} GiB, {' '.join(features) or 'no SIMD flags'}"
    )
