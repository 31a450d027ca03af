"""Runs llama.cpp's programs as child processes that never outlive us, and says how one ended.

Every tool runs in one: a failed GGML_ASSERT aborts the process.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO, Any

from luq_gguf.core import interrupts
from luq_gguf.core.errors import DiskSpaceError, LuqError, ToolsError
from luq_gguf.llamacpp.recipe import vendor

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
FULL = 2**24  # bytes: what the tools could not write was larger

# Which package has a library that a tool cannot find, by Debian's name and by Fedora's.
PACKAGES = {
    "libgomp": ("libgomp1", "libgomp"),
    "libstdc++": ("libstdc++6", "libstdc++"),
    "libgcc_s": ("libgcc-s1", "libgcc"),
    "libcurl": ("libcurl4", "libcurl"),
    "libssl": ("libssl3", "openssl-libs"),
}


def start(
    command: Sequence[object],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    stdin: int | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Popen[str]:
    """Start a child in text mode, for `end`. It has its own session, so that Ctrl-C reaches only us and we end it.

    Python programs take paths and print as UTF-8, whatever the locale. ggml calls no debugger when it aborts, whose
    words would come after its own.
    """
    return Popen(
        [str(part) for part in command],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**environment, "PYTHONUTF8": "1", "GGML_NO_BACKTRACE": "1"},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def end(child: Popen[str]) -> None:
    """Kill a child, if it still runs, and close its pipes."""
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream:
            with suppress(BrokenPipeError):
                stream.close()


def wait(child: Popen[str]) -> int:
    """Wait for the end of a child that writes to a file, and return its exit code."""
    while True:
        interrupts.check()
        with suppress(TimeoutExpired):
            return child.wait(timeout=0.2)


@contextmanager
def started(command: Sequence[object], environment: Mapping[str, str], **where: Any) -> Iterator[Popen[str]]:
    """Run a child that has ended when the block has; `where` is what `start` takes."""
    child = start(command, environment, **where)
    try:
        yield child
    finally:
        end(child)


def die_with_parent() -> None:
    """End a child on Linux when our process is killed, so that no orphan keeps writing to files of the next run."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def ended(code: int) -> str:
    """Return in words how a child ended, from its return code: "crashed (segmentation fault)"."""
    words: str = vendor("selftest").ended(code)
    return words


def crash_hint(code: int, otherwise: str, killed: str = "") -> str:
    """Return what to do about how a child ended; `killed` is a way to do with less memory, if there is one."""
    if code == -signal.SIGKILL:
        return f"If memory ran out, close other programs, add swap or raise the memory limit{killed}."
    return "`luq-gguf doctor` tests whether llama.cpp computes correctly on this CPU." if code < 0 else otherwise


def missing_library(output: str) -> ToolsError | None:
    """Return the error of a program that could not start because a shared library is missing, from the loader's
    output."""
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


def failed(error: type[LuqError], code: int, message: str, output: str, hint: str = "", killed: str = "") -> LuqError:
    """Return the error of a child that ended with `code`: that a library is missing where its output says so, else
    `message`, with `hint` unless it crashed or was killed."""
    return missing_library(output) or error(message, crash_hint(code, hint, killed))


@dataclass(frozen=True)
class Failure:
    """How it is said that a child failed: as which error, what it was that did, and what to do about it, `killed` for
    want of memory."""

    error: type[LuqError]
    what: str
    hint: str = "The lines above are llama.cpp's own."
    killed: str = ""


def run(
    command: Sequence[str | Path],
    failure: Failure,
    *,
    on_line: Callable[[str], None] = lambda line: None,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    into: Path | None = None,
) -> str:
    """Run a child process, hand each line (\\n or \\r) to `on_line`, and return its whole output.

    A child never outlives this call. Raises what `check` raises.
    """
    output = Output(on_line)
    with started(command, os.environ | (environment or {}), cwd=cwd, stdout=PIPE, stderr=STDOUT) as child:
        assert child.stdout
        for line in child.stdout:  # universal newlines: \r ends a line too
            interrupts.check()
            output.add(line.rstrip("\n"))
        code = child.wait()
        interrupts.check()
    check(code, output, failure, into)
    return "\n".join(output.lines)


class Output:
    """The last lines that a program has written; each was handed to `on_line`."""

    def __init__(self, on_line: Callable[[str], None] = lambda line: None, lines: Iterable[str] = ()) -> None:
        self.lines: deque[str] = deque(lines, maxlen=20_000)
        self._on_line = on_line

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._on_line(line)


def check(code: int, output: Output, failure: Failure, into: Path | None) -> None:
    """Raise `failure`, with the end of the output, where a program has not ended with 0; DiskSpaceError where the disk
    of `into`, the folder that it wrote to, is full then: the tools have many words for that."""
    if code and into and shutil.disk_usage(into).free < FULL:
        raise DiskSpaceError(
            f"The disk that holds {into} is full, and {failure.what} could not continue.",
            "Free some space and run the same command again.",
        )
    if code:
        plain = [line for line in output.lines if line.strip() and not line.startswith((" ", "Traceback"))]
        words = "\n".join(plain[-3:])
        message = f"{failure.what} {ended(code)}:\n{words}"
        raise failed(failure.error, code, message, words, failure.hint, failure.killed)
