"""Find llama.cpp's tools and run them.

Tools come from LUQ_LLAMA_CPP (a user's own llama.cpp: an installed prefix, or a source tree with build/bin), else from
the pinned build in the user's cache. Every tool runs in a child process: a failed GGML_ASSERT aborts the process.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from luq_gguf.core import interrupts
from luq_gguf.core.errors import DiskSpaceError, LuqError, ToolsError

ENVIRONMENT_VARIABLE = "LUQ_LLAMA_CPP"
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
CONVERTER = "convert_hf_to_gguf.py"
_GGML = "libggml-base.so"
FULL = 2**24  # bytes: what the tools could not write was larger


# Which package has a library that a tool cannot find, by Debian's name and by Fedora's.
PACKAGES = {
    "libgomp": ("libgomp1", "libgomp"),
    "libstdc++": ("libstdc++6", "libstdc++"),
    "libgcc_s": ("libgcc-s1", "libgcc"),
    "libcurl": ("libcurl4", "libcurl"),
    "libssl": ("libssl3", "openssl-libs"),
}


@dataclass(frozen=True)
class LlamaCpp:
    """Where the tools and the shared libraries are. `pinned` tells the project's own build from a user's; a user's may
    have been linked statically, without libraries."""

    tools: Path
    converter: Path
    pinned: bool
    libraries: Path | None

    def tool(self, name: str) -> Path:
        """The path of one tool. Raises ToolsError where it is absent."""
        path = self.tools / name
        if not path.is_file():
            raise ToolsError(f"llama.cpp's {name} is not in {self.tools}.", _hint())
        return path


def recipe() -> Path:
    """vendor/build.py: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_vendor" / "build.py"
    return installed if installed.exists() else package.parent / "vendor" / "build.py"


@cache
def _vendor(module: str) -> ModuleType:
    """A module of the recipe. Its folder is a package that nothing else knows by name."""
    name, folder = "luq_gguf_vendor", recipe().parent
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.{module}")


def pin() -> dict[str, object]:
    """The pin of llama.cpp: package, version, sha256, flags, tools."""
    found: dict[str, object] = _vendor("build").PIN
    return found


def ggml_headers() -> Path:
    """ggml's headers of the pin, fetched with its sdist where they are not in the cache yet."""
    found: Path = _vendor("build").headers()
    return found


def unused_builds() -> list[tuple[Path, int]]:
    """Builds in the cache that this version does not use: folder and bytes."""
    found: list[tuple[Path, int]] = _vendor("build").unused()
    return found


def build_facts() -> dict[str, object]:
    """What build.json says of the pinned build: `portable`, `needs` (CPU features), `left_out` (feature -> why)."""
    found: dict[str, object] | None = _vendor("build").facts(pinned_build())
    return found or {}


@dataclass(frozen=True)
class SelfTest:
    """What was computed: results by type, buffer and number of columns, and sentences of those that failed."""

    n_results: int
    buffers: tuple[str, ...]
    failures: tuple[str, ...]


def self_test(llama: LlamaCpp) -> SelfTest:
    """Matrix products of every type in every buffer that this CPU offers, and a tiny file, in child processes; a
    statically linked build shows the tiny file alone. Takes seconds. See vendor/selftest.py."""
    module = _vendor("selftest")
    results = list(module.run(llama.libraries, llama.tools) if llama.libraries else module.run_tools(llama.tools))
    buffers = dict.fromkeys(result.buffer for result in results if result.buffer != "file")
    return SelfTest(len(results), tuple(buffers), tuple(str(result) for result in results if not result.ok))


def _hint() -> str:
    return (
        f"Build the pinned llama.cpp with `python {recipe()}` (several minutes, once), "
        f"or set {ENVIRONMENT_VARIABLE} to your own llama.cpp; `luq-gguf doctor` checks."
    )


def pinned_build() -> Path:
    """The folder of the pinned build for this CPU. Raises ToolsError where there is none that has passed its test."""
    recipe_module = _vendor("build")
    folder: Path = recipe_module.cache_folder()
    if not recipe_module.usable(folder):
        raise ToolsError("The pinned llama.cpp has not been built for this CPU.", _hint())
    return folder


def find() -> LlamaCpp:
    """Locate tools and converter. Raises ToolsError with what to do where they are missing."""
    own = os.environ.get(ENVIRONMENT_VARIABLE)
    if own:
        return _find_own(Path(own).expanduser())
    folder = pinned_build()
    package = folder / "llama_cpp"
    return LlamaCpp(package / "bin", folder / "converter" / CONVERTER, pinned=True, libraries=package / "lib")


def _find_own(root: Path) -> LlamaCpp:
    tools = next((p for p in (root / "build" / "bin", root / "bin", root) if (p / "llama-quantize").is_file()), None)
    converter = next((p for p in (root / CONVERTER, root / "share" / CONVERTER) if p.is_file()), None)
    if tools is None or converter is None:
        missing = "llama-quantize" if tools is None else CONVERTER
        raise ToolsError(
            f"{ENVIRONMENT_VARIABLE}={root} holds no {missing}.",
            "Point it to a llama.cpp source tree that was built in build/, or unset it to use the pinned build.",
        )
    libraries = next((p for p in (tools, tools.parent / "lib", tools.parent / "lib64") if (p / _GGML).exists()), None)
    return LlamaCpp(tools, converter, pinned=False, libraries=libraries)


def bindings_environment() -> dict[str, str]:
    """The environment of a child that imports llama_cpp: that of the pinned build, whatever else is installed."""
    path = [str(pinned_build()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def output(tool: Path, *arguments: str) -> str:
    """What a tool prints of itself: its help or version. Raises ToolsError where it does not start."""
    run = subprocess.run([tool, *arguments], capture_output=True, text=True, errors="replace", timeout=60)
    told = run.stdout + run.stderr
    # Of some tools --help ends with 1; what cannot start ends with 127 or by a signal, and says nothing of its usage.
    if run.returncode == 0 or (run.returncode == 1 and "usage" in told.lower()):
        return told
    raise missing_library(told) or ToolsError(f"{tool} {ended(run.returncode)}.", _hint())


def version(llama: LlamaCpp) -> str:
    """The tools' own words about their version."""
    match = re.search(r"version:\s*(.+)", output(llama.tool("llama-server"), "--version"))
    return match[1].strip() if match else "unknown"


def ended(code: int) -> str:
    """How a child ended, in words, of its return code: "crashed (segmentation fault)"."""
    words: str = _vendor("selftest").ended(code)
    return words


def crash_hint(code: int, otherwise: str) -> str:
    """What to do about a child's end."""
    return "`luq-gguf doctor` tests whether llama.cpp computes on this CPU." if code < 0 else otherwise


def missing_library(output: str) -> ToolsError | None:
    """The error of a program that could not start for want of a shared library, of what the loader said."""
    match = re.search(
        r"(?:error while loading shared libraries: |^|: )(lib[\w.+-]+?\.so[.\d]*): cannot open shared", output
    )
    if match is None:
        return None
    names = PACKAGES.get(match[1].partition(".so")[0])
    hint = (
        f"Install the package that has it: {names[0]} on Debian and Ubuntu (apt-get install {names[0]}), "
        f"{names[1]} on Fedora."
        if names
        else "Install the package that has it."
    )
    return ToolsError(f"llama.cpp cannot start: the shared library {match[1]} is missing.", hint)


def die_with_parent() -> None:
    """In a child on Linux: end when our process is killed, so that no orphan writes on into files of the next run."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run(
    command: Sequence[str | Path],
    *,
    failure: type[LuqError],
    what: str,
    on_line: Callable[[str], None] = lambda line: None,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    hint: str = "The lines above are llama.cpp's own.",
    into: Path | None = None,
) -> str:
    """Run a child process, hand each line (\\n or \\r) to `on_line`, and return its whole output.

    A child never outlives this call. Raises `failure`, with the end of the output, when it does not exit with 0;
    DiskSpaceError where the disk of `into`, the folder it writes to, is full then: the tools have many words for that.
    """
    lines: deque[str] = deque(maxlen=20_000)
    child = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=os.environ | (environment or {}),
        text=True,
        errors="replace",
        bufsize=1,
        start_new_session=True,  # Ctrl-C reaches us alone; we end the child
        preexec_fn=die_with_parent,
    )
    try:
        assert child.stdout
        for line in child.stdout:  # universal newlines: \r ends a line too
            interrupts.check()
            lines.append(line.rstrip("\n"))
            on_line(lines[-1])
        code = child.wait()
        interrupts.check()
    finally:
        child.kill()  # no-op for one that has ended
        child.wait()
        assert child.stdout
        child.stdout.close()
    if code and into and shutil.disk_usage(into).free < FULL:
        raise DiskSpaceError(
            f"The disk that holds {into} is full, and {what} could not go on.",
            "Free some room and run the same command again: finished stages are kept.",
        )
    if code:
        plain = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
        told = "\n".join(plain[-3:])
        raise missing_library(told) or failure(f"{what} {ended(code)}:\n{told}", crash_hint(code, hint))
    return "\n".join(lines)


def python_environment() -> dict[str, str]:
    """For the converter, which runs under our Python: no progress threads, no network, its own gguf first."""
    return {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def python() -> str:
    return sys.executable
