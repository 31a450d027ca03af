"""Finds llama.cpp's tools.

Tools come from LUQ_LLAMA_CPP (a user's own llama.cpp: an installed prefix, or a source tree with build/bin), else from
the pinned build in the user's cache. Every tool runs in a child process: a failed GGML_ASSERT aborts the process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from luq_gguf.core import machine, paths
from luq_gguf.core.errors import ToolsError
from luq_gguf.core.hashing import contents_of, hash_of
from luq_gguf.llamacpp import child
from luq_gguf.llamacpp.recipe import setup_command, vendor

ENVIRONMENT_VARIABLE = "LUQ_LLAMA_CPP"
CONVERTER = "convert_hf_to_gguf.py"
_GGML_CPU = "libggml-cpu.so"

_held: dict[Path, TextIO | None] = {}  # files whose folders in the cache this process uses, open as long as it lives


@dataclass(frozen=True)
class LlamaCpp:
    """Where the tools and the shared libraries are. `pinned` tells the project's own build from a user's, which may
    have been linked statically, without libraries."""

    tools: Path
    converter: Path
    pinned: bool
    libraries: Path | None

    def tool(self, name: str) -> Path:
        """Return the path of one tool. Raises ToolsError where it is absent."""
        path = self.tools / name
        if not path.is_file():
            raise ToolsError(f"llama.cpp's {name} is not in {self.tools}.", _hint())
        if not os.access(path, os.X_OK):  # nor is anything on a file system that is mounted noexec
            raise ToolsError(
                f"llama.cpp's {name} in {self.tools} may not be run.",
                "Its file system is mounted noexec, or it is not marked as executable"
                + (": set XDG_CACHE_HOME to a folder elsewhere." if self.pinned else "."),
            )
        return path


def pin() -> dict[str, Any]:
    """Return the pin of llama.cpp: package, version, sha256, flags, tools."""
    content: dict[str, Any] = vendor("build").PIN
    return content


def identity(llama: LlamaCpp | None = None) -> str:
    """Return what stands for a llama.cpp in the keys of its results: the pin, or the contents of a user's own build,
    which may be built again in its place. None is the pinned one, which the libraries always are."""
    if llama is None or llama.pinned:
        return hash_of(pin()["version"], pin()["sha256"])
    scripts = [llama.converter, *sorted((llama.converter.parent / "conversion").glob("*.py"))]
    programs = [llama.tool("llama-quantize"), llama.tool("llama-bench")]
    libraries = sorted(llama.libraries.glob("lib*.so")) if llama.libraries else []
    return hash_of(contents_of([*scripts, *programs, *libraries]))


def ggml_headers() -> Path:
    """Return the folder of the pinned ggml's headers, downloaded with its sdist where they are not in the cache yet.
    Raises ToolsError."""
    with _recipe_errors():
        folder: Path = vendor("build").headers()
    return folder


def build_program(name: str, folder: Path) -> str:
    """Return the path of a program that builds need (cmake, ninja): the machine's own, else one that is downloaded into
    the folder. Raises ToolsError."""
    with _recipe_errors():
        path: str = vendor("build").program(name, folder)
    return path


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """An empty folder in the cache to build in, which is removed even after this process was killed. Raises
    ToolsError."""
    places = vendor("places")
    with _recipe_errors():
        places.check(100 * 10**6)
        with places.work_folder(name) as folder:
            yield folder


def set_up(*, portable: bool = False) -> tuple[Path, bool]:
    """Return the folder of the pinned llama.cpp, and whether it was built now, which takes minutes and is announced on
    stderr. Raises ToolsError where it cannot be built."""
    recipe_module = vendor("build")
    with _recipe_errors():
        started = time.time()
        folder: Path = recipe_module.build(portable=portable)
        return folder, (folder / recipe_module.FACTS).stat().st_mtime >= started


@contextmanager
def _recipe_errors() -> Iterator[None]:
    """Raise the recipe's errors as ToolsError: it knows nothing of this package."""
    try:
        yield
    except vendor("places").RecipeError as error:
        message = "\n".join(filter(None, (error.output, error.message)))
        raise ToolsError(message, error.hint) from None


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
    """What was computed: how much and in which buffers, and sentences about what failed. `failures` are of products
    that every model needs; `in_batches` of those that only some models ask for (see vendor/amx_batches.cpp)."""

    n_results: int
    buffers: tuple[str, ...]
    failures: tuple[str, ...]
    in_batches: tuple[str, ...] = ()


def self_test(llama: LlamaCpp) -> SelfTest:
    """Compute matrix products of every type in every buffer that this CPU offers, and a tiny file, in child processes;
    a statically linked build is tested with the tiny file only. This takes seconds. See vendor/selftest.py. Raises
    ToolsError where the file cannot be written."""
    module = vendor("selftest")
    try:
        results = list(module.run(llama.libraries, llama.tools) if llama.libraries else module.run_tools(llama.tools))
    except OSError as error:
        raise ToolsError(
            f"llama.cpp cannot be tested: a file of a megabyte cannot be written to {tempfile.gettempdir()} "
            f"({error.strerror}).",
            "Free some space there, or set TMPDIR to another folder.",
        ) from None
    buffers = dict.fromkeys(result.buffer for result in results if result.buffer != "file")
    wrong = [result for result in results if not result.ok]
    failures, in_batches = (tuple(str(r) for r in wrong if (r.batches > 1) is several) for several in (False, True))
    return SelfTest(len(results), tuple(buffers), failures, in_batches)


def _hint() -> str:
    return (
        f"Build the pinned llama.cpp with `{setup_command()}` (several minutes, once), "
        f"or set {ENVIRONMENT_VARIABLE} to your own llama.cpp; then check it with `luq-gguf doctor`."
    )


def pinned_build() -> Path:
    """Return the folder of the pinned build for this CPU. Raises ToolsError where there is none that has passed its
    test."""
    recipe_module = vendor("build")
    with _recipe_errors():
        folder: Path = recipe_module.cache_folder()
    if not recipe_module.usable(folder):
        raise ToolsError("The pinned llama.cpp has not been built for this CPU.", _hint())
    hold(folder / recipe_module.FACTS)
    return folder


def pinned_libraries() -> Path:
    """Return the folder of the pinned build's shared libraries. Raises ToolsError as `pinned_build` does."""
    return pinned_build() / "llama_cpp" / "lib"


def hold(file: Path) -> None:
    """Share a lock on a file in the cache until this process ends, so that `luq-gguf cache` leaves its folder alone."""
    if file not in _held:
        _held[file] = vendor("places").hold(file)


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
    """Run the self-test on a user's own build, once for the same contents on the same kind of CPU."""
    passed = paths.cache("selftests") / hash_of(identity(llama), machine.cpu_name(), machine.cpu_features())
    if passed.exists():
        return
    failures = self_test(llama).failures
    if failures:
        raise child.missing_library(failures[0]) or ToolsError(
            f"The llama.cpp that {ENVIRONMENT_VARIABLE} names does not compute correctly on this CPU: {failures[0]}.",
            "Unset it to use the pinned build; `luq-gguf doctor` tests again.",
        )
    with suppress(OSError):  # a cache that cannot be written: tested again next time
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def bindings_environment(bindings: Path | None = None) -> dict[str, str]:
    """Return the environment of a child that imports llama_cpp of the pinned build, or from `bindings`, whatever else
    is installed, lies in the working folder, or is named for llama-cpp-python."""
    package = Path(__file__).resolve().parents[2]
    path = [str(bindings or pinned_build()), str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def output(tool: Path, *arguments: str) -> str:
    """Return what a tool prints about itself: its help or version. Raises ToolsError where it does not start or
    fails."""
    run = subprocess.run([tool, *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=60)
    words = run.stdout + run.stderr
    # Of some tools --help ends with 1; what cannot start ends with 127 or by a signal, and says nothing of its usage.
    shown = run.returncode == 1 and "--help" in arguments and "usage" in words.lower()
    if run.returncode == 0 or shown:
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
