"""Runs the steps of a build, which take minutes, and shows how far they are. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __package__:
    from .places import RecipeError, unwritable
else:
    from places import RecipeError, unwritable


def _end_with_parent() -> None:
    """Have Linux end a step, with its compilers, when this process is killed: its folder is free then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(command: list[str], log: Path, beside: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Run a step of the build, whose temporary files lie in the work folder; its output goes to a log whose end is
    shown on failure."""
    with log.open("a") as out:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"TMPDIR": str(beside)},
            preexec_fn=_end_with_parent,
        )
        assert child.stdout
        try:
            for line in child.stdout:
                out.write(line)
                on_line(line)
            code = child.wait()
        finally:
            child.terminate()  # no-op for one that has ended; ninja ends its compilers then
            child.wait()
    if code:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        if "No space left on device" in end or shutil.disk_usage(beside).free < 2**20:
            raise unwritable(OSError(errno.ENOSPC, "No space left on device"))
        raise RecipeError("llama.cpp could not be compiled.", f"The lines above are the end of {log}.", end)


class Progress:
    """ninja's "[done/total]" as a line that stays where it is in a terminal, and as a line a minute elsewhere."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()

    def __call__(self, line: str) -> None:
        steps = re.match(r"\[(\d+)/(\d+)\]", line)
        if not steps:
            return
        done, total, now = int(steps[1]), int(steps[2]), time.monotonic()
        text = f"compiling llama.cpp: {done} of {total} files, {(now - self._started) / 60:.0f} min"
        if sys.stderr.isatty():
            print(f"\r{text}  ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif now - self._told > 60 or done == total:
            self._told = now
            print(text, file=sys.stderr, flush=True)
