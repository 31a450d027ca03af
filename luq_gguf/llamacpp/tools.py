"""Finds llama.cpp's tools.

Tools come from LUQ_LLAMA_CPP (a user's own llama.cpp: an installed prefix, or a source tree with build/bin), else from
the pinned build in the user's cache. Every tool runs in a child process: a failed GGML_ASSERT aborts the process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import paths
from luq_gguf.core.errors import ToolsError
from luq_gguf.core.hashing import hash_of
from luq_gguf.llamacpp import child
from luq_gguf.llamacpp.recipe import recipe, vendor

ENVIRONMENT_VARIABLE = "LUQ_LLAMA_CPP"
CONVERTER = "convert_hf_to_gguf.py"
_GGML_CPU = "libggml-cpu.so"


@dataclass(frozen=True)
class LlamaCpp:
    """Where the tools and the shared libraries are. `pinned` tells the project's own build from a user's, which may
    have been linked statically, without libraries."""

    tools: Path
    converter: Path
    pinned: bool
    libraries: Path | None

    @property
    def identity(self) -> str:
        """Return what stands for these tools in the keys of what they make: the pinned build's folder has its version
        in its name, and a user's own is known by its files' sizes and times."""
        if self.pinned:
            return str(self.converter)
        files = [self.tools / "llama-quantize", self.converter]
        files += sorted(self.libraries.glob("lib*.so")) if self.libraries else []
        return hash_of([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])

    def tool(self, name: str) -> Path:
        """Return the path of one tool. Raises ToolsError where it is absent."""
        path = self.tools / name
        if not path.is_file():
            raise ToolsError(f"llama.cpp's {name} is not in {self.tools}.", _hint())
        return path


def pin() -> dict[str, Any]:
    """Return the pin of llama.cpp: package, version, sha256, flags, tools."""
    content: dict[str, Any] = vendor("build").PIN
    return content


def ggml_headers() -> Path:
    """Return the folder of the pinned ggml's headers, downloaded with its sdist where they are not in the cache yet."""
    folder: Path = vendor("build").headers()
    return folder


def unused_builds() -> list[tuple[Path, int]]:
    """Return builds in the cache that this version does not use: folder and bytes."""
    builds: list[tuple[Path, int]] = vendor("build").unused()
    return builds


def build_facts() -> dict[str, object]:
    """Return what build.json says about the pinned build: `portable`, `needs` (CPU features), `left_out` (feature ->
    why)."""
    facts: dict[str, object] | None = vendor("build").facts(pinned_build())
    return facts or {}


@dataclass(frozen=True)
class SelfTest:
    """What was computed: results by type, buffer and number of columns, and sentences about those that failed."""

    n_results: int
    buffers: tuple[str, ...]
    failures: tuple[str, ...]


def self_test(llama: LlamaCpp) -> SelfTest:
    """Compute matrix products of every type in every buffer that this CPU offers, and a tiny file, in child processes;
    a statically linked build is tested with the tiny file only. This takes seconds. See vendor/selftest.py."""
    module = vendor("selftest")
    results = list(module.run(llama.libraries, llama.tools) if llama.libraries else module.run_tools(llama.tools))
    buffers = dict.fromkeys(result.buffer for result in results if result.buffer != "file")
    return SelfTest(len(results), tuple(buffers), tuple(str(result) for result in results if not result.ok))


def _hint() -> str:
    return (
        f"Build the pinned llama.cpp with `python {recipe()}` (several minutes, once), "
        f"or set {ENVIRONMENT_VARIABLE} to your own llama.cpp; then check it with `luq-gguf doctor`."
    )


def pinned_build() -> Path:
    """Return the folder of the pinned build for this CPU. Raises ToolsError where there is none that has passed its
    test."""
    recipe_module = vendor("build")
    folder: Path = recipe_module.cache_folder()
    if not recipe_module.usable(folder):
        raise ToolsError("The pinned llama.cpp has not been built for this CPU.", _hint())
    return folder


def find(*, untested: bool = False) -> LlamaCpp:
    """Locate tools and converter. A user's own build is tested when it is first used, unless `untested` is enough.

    Raises ToolsError with what to do where they are missing, or do not compute on this CPU.
    """
    root = os.environ.get(ENVIRONMENT_VARIABLE)
    if root:
        llama = _find_own(Path(root).expanduser())
        if not untested:
            _prove(llama)
        return llama
    folder = pinned_build()
    package = folder / "llama_cpp"
    return LlamaCpp(package / "bin", folder / "converter" / CONVERTER, pinned=True, libraries=package / "lib")


def _find_own(root: Path) -> LlamaCpp:
    tools = next((p for p in (root / "build" / "bin", root / "bin", root) if (p / "llama-quantize").is_file()), None)
    converter = next((p for p in (root / CONVERTER, root / "share" / CONVERTER) if p.is_file()), None)
    if tools is None or converter is None:
        missing = "llama-quantize" if tools is None else CONVERTER
        raise ToolsError(
            f"{ENVIRONMENT_VARIABLE}={root} does not contain {missing}.",
            "Point it to a llama.cpp source tree that was built in build/, or unset it to use the pinned build.",
        )
    libraries = next(
        (p for p in (tools, tools.parent / "lib", tools.parent / "lib64") if (p / _GGML_CPU).exists()), None
    )
    return LlamaCpp(tools, converter, pinned=False, libraries=libraries)


def _prove(llama: LlamaCpp) -> None:
    """Run the self-test on a user's own build, once for the same files."""
    files = [llama.tool("llama-quantize"), llama.tool("llama-bench")]
    files += [llama.libraries / _GGML_CPU] if llama.libraries else []
    identity = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    passed = paths.cache("selftests") / hash_of(identity)
    if passed.exists():
        return
    failures = self_test(llama).failures
    if failures:
        raise child.missing_library(failures[0]) or ToolsError(
            f"The llama.cpp that {ENVIRONMENT_VARIABLE} names does not compute correctly on this CPU: {failures[0]}.",
            "Unset it to use the pinned build; `luq-gguf doctor` tests again.",
        )
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.touch()


def bindings_environment() -> dict[str, str]:
    """Return the environment of a child that imports llama_cpp of the pinned build, whatever else is installed."""
    path = [str(pinned_build()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def output(tool: Path, *arguments: str) -> str:
    """Return what a tool prints about itself: its help or version. Raises ToolsError where it does not start."""
    run = subprocess.run([tool, *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=60)
    words = run.stdout + run.stderr
    # Of some tools --help ends with 1; what cannot start ends with 127 or by a signal, and says nothing of its usage.
    if run.returncode == 0 or (run.returncode == 1 and "usage" in words.lower()):
        return words
    raise child.missing_library(words) or ToolsError(f"{tool} {child.ended(run.returncode)}.", _hint())


def version(llama: LlamaCpp) -> str:
    """Return the version that the tools report."""
    match = re.search(r"version:\s*(.+)", output(llama.tool("llama-server"), "--version"))
    return match[1].strip() if match else "unknown"


def version_of(llama: LlamaCpp) -> str:
    """Return the version for a record: the pin's, or what a user's own tools report and where they are."""
    return str(pin()["version"]) if llama.pinned else f"{version(llama)} in {llama.tools}"


def python_environment() -> dict[str, str]:
    """Return what the converter needs, which runs under our Python: no progress threads, no network, its own gguf
    first."""
    return {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def python() -> str:
    return sys.executable
