"""Find llama.cpp's tools and run them.

Tools come from LUQ_LLAMA_CPP (a user's own llama.cpp: an installed prefix, or a source tree with build/bin), else from
the pinned build in the user's cache. Every tool runs in a child process: a failed GGML_ASSERT aborts the process.
"""

from __future__ import annotations

import ctypes
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
from pathlib import Path
from types import ModuleType

from luq_gguf import interrupts
from luq_gguf.errors import DiskSpaceError, LuqError, ToolsError

ENVIRONMENT_VARIABLE = "LUQ_LLAMA_CPP"
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
CONVERTER = "convert_hf_to_gguf.py"
FULL = 2**24  # bytes: what the tools could not write was larger


@dataclass(frozen=True)
class LlamaCpp:
    """Where the tools are. `pinned` tells the project's own build from a user's."""

    tools: Path
    converter: Path
    pinned: bool

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


def _load_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("luq_gguf_vendor_build", recipe())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pin() -> dict[str, object]:
    """The pin of llama.cpp: package, version, sha256, flags, tools."""
    found: dict[str, object] = _load_recipe().PIN
    return found


def ggml_headers() -> Path:
    """ggml's headers of the pin, fetched with its sdist where they are not in the cache yet."""
    found: Path = _load_recipe().headers()
    return found


def cache_root() -> Path:
    """The folder of the user's cache that builds are kept in."""
    found: Path = _load_recipe().cache_folder().parent
    return found


def _hint() -> str:
    return (
        f"Build the pinned llama.cpp with `python {recipe()}` (several minutes, once), "
        f"or set {ENVIRONMENT_VARIABLE} to your own llama.cpp; `luq-gguf doctor` checks."
    )


def find() -> LlamaCpp:
    """Locate tools and converter. Raises ToolsError with what to do where they are missing."""
    own = os.environ.get(ENVIRONMENT_VARIABLE)
    if own:
        return _find_own(Path(own).expanduser())
    folder: Path = _load_recipe().cache_folder()
    if not (folder / "build.json").exists():
        raise ToolsError("The pinned llama.cpp has not been built for this CPU.", _hint())
    return LlamaCpp(folder / "llama_cpp" / "bin", folder / "converter" / CONVERTER, pinned=True)


def _find_own(root: Path) -> LlamaCpp:
    tools = next((p for p in (root / "build" / "bin", root / "bin", root) if (p / "llama-quantize").is_file()), None)
    converter = next((p for p in (root / CONVERTER, root / "share" / CONVERTER) if p.is_file()), None)
    if tools is None or converter is None:
        missing = "llama-quantize" if tools is None else CONVERTER
        raise ToolsError(
            f"{ENVIRONMENT_VARIABLE}={root} holds no {missing}.",
            "Point it to a llama.cpp source tree that was built in build/, or unset it to use the pinned build.",
        )
    return LlamaCpp(tools, converter, pinned=False)


def version(llama: LlamaCpp) -> str:
    """The tools' own words about their version."""
    run = subprocess.run([llama.tool("llama-server"), "--version"], capture_output=True, text=True, timeout=60)
    match = re.search(r"version:\s*(.+)", run.stdout + run.stderr)
    return match[1].strip() if match else "unknown"


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
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise failure(f"{what} {ended}:\n{told}", hint)
    return "\n".join(lines)


def python_environment() -> dict[str, str]:
    """For the converter, which runs under our Python: no progress threads, no network, its own gguf first."""
    return {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def python() -> str:
    return sys.executable
