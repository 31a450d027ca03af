"""The command line, in a process of its own as a user runs it, or in this one, which spares the imports."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from luq_gguf import cli


def in_child(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "luq_gguf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, **options)


def in_process(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The same without a new interpreter: what `luq_gguf.cli.main` does but for its signal handlers.

    `env` is the whole environment, as for a child. What libraries read when they are imported (HF_*, OMP_*) has been
    read already: a command that needs other values of these needs `in_child`.
    """
    command = ["luq-gguf", *map(str, arguments)]
    with _environment(env), warnings.catch_warnings(), _captured() as (out, err):
        _as_outside_of_pytest()
        kept, sys.argv = sys.argv, command
        try:
            code = cli._run()
        finally:
            sys.argv = kept
        return subprocess.CompletedProcess(command, code, _text(out), _text(err))


def _as_outside_of_pytest() -> None:
    """Python's own filters of warnings, for pytest's make errors of all; and stderr is where they are shown."""
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.showwarning = lambda message, kind, file, at, out=None, line=None: (
        sys.stderr.write(warnings.formatwarning(message, kind, file, at, line)) and None
    )


@contextmanager
def _environment(env: Mapping[str, str] | None) -> Iterator[None]:
    kept, folder = dict(os.environ), os.getcwd()
    try:
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        os.environ.pop("COLUMNS", None)  # of a worker of pytest-xdist
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(kept)


# These live on, for libraries keep the stderr that they were imported with; where they lead to changes beneath them.
_STREAMS = [
    io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), "utf-8", errors, write_through=True)
    for fd, errors in ((1, "strict"), (2, "backslashreplace"))
]


@contextmanager
def _captured() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Files that take what is written to stdout and stderr inside, by children and by C code too."""
    kept = sys.stdout, sys.stderr
    for stream in kept:
        stream.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _leading_to(1, out), _leading_to(2, err):
        sys.stdout, sys.stderr = _STREAMS
        try:
            yield out, err
        finally:
            sys.stdout, sys.stderr = kept


@contextmanager
def _leading_to(fd: int, file: IO[bytes]) -> Iterator[None]:
    before = os.dup(fd)
    os.dup2(file.fileno(), fd)
    try:
        yield
    finally:
        os.dup2(before, fd)
        os.close(before)


def _text(file: IO[bytes]) -> str:
    """As subprocess reads it, with any end of a line as one."""
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
