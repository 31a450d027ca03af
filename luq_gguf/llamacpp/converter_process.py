"""Starts llama.cpp's converter in a child process that has imported what it needs: torch and transformers take seconds.

The child is a server (`converter_child`) that forks for every start. It ends with our process, and when it has had
nothing to do for a while.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, TextIO

from luq_gguf.core import checkpoint_view, interrupts
from luq_gguf.core.checkpoint_view import View
from luq_gguf.core.errors import ToolsError
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.child import Failure
from luq_gguf.llamacpp.converter_child import MARK

_PROGRAM = Path(__file__).with_name("converter_child.py")
# What a program reads when it starts, or a library when it is imported: a server serves those that agree about it.
_READ_ONCE = ("LD_", "PYTHON", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH_", "HF_", "TRANSFORMERS_", "MALLOC_")


@dataclass
class _Server:
    process: Popen[bytes]
    control: socket.socket


_servers: dict[tuple[object, ...], _Server] = {}
_starting = threading.Lock()
_peak = 0


def peak_rss_bytes() -> int:
    """Return the most memory that any of the converter's processes had in use."""
    return _peak


def run(
    script: Path,
    arguments: Sequence[str],
    failure: Failure,
    *,
    view: View = (),
    header: Path | None = None,
    sources: Path | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    into: Path | None = None,
) -> None:
    """Run the converter, hand each line of its output to `on_line`, and return when it has ended.

    It is shown the checkpoint through `view`, and writes the metadata of a dry run to `header`, and what makes each of
    its matrices to `sources`. Raises what `child.run` raises.
    """
    global _peak
    request = {
        "script": str(script),
        "arguments": list(arguments),
        "view": checkpoint_view.to_json(view),
        "header": header and str(header),
        "sources": sources and str(sources),
        "folder": os.getcwd(),
        "environment": os.environ | tools.python_environment() | {"PYTHONUTF8": "1"},
    }
    lines = child.Output(on_line)
    with _job(request) as output:
        for line in output:
            interrupts.check()
            text, mark, status = line.rstrip("\n").partition(MARK)
            if text or not mark:
                lines.add(text)
            if mark:
                ended = json.loads(status)
                break
        else:  # the server was killed, and its jobs with it
            ended = {"code": -9, "peak": 0}
    interrupts.check()
    _peak = max(_peak, ended["peak"])
    child.check(ended["code"], lines, failure, into)


@contextmanager
def _job(request: dict[str, Any]) -> Iterator[Iterator[str]]:
    """Lines of the output of a job that has ended when the block has."""
    for _ in range(2):  # a server may just have ended for want of work
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("r", encoding="utf-8", errors="replace") as answer:
            with theirs:
                _hand_over(theirs, request["environment"])
            with suppress(OSError):
                ours.sendall(json.dumps(request).encode() + b"\n")
            output = _lines(answer)
            if next(output, None) is not None:
                try:
                    yield output
                finally:
                    _end_job(ours, _lines(answer))
                return
    raise ToolsError(
        f"{tools.python()} cannot start to run llama.cpp's converter.", "Test the installation with luq-gguf doctor."
    )


def _lines(answer: TextIO) -> Iterator[str]:
    """Lines to the end of an answer, which may be that of the server."""
    with suppress(ConnectionError):
        yield from answer


def _end_job(ours: socket.socket, output: Iterator[str]) -> None:
    """Have a job killed that still runs, and wait until it has ended."""
    with suppress(OSError):
        ours.shutdown(socket.SHUT_WR)
    for line in output:
        if MARK in line:
            break


def _hand_over(job: socket.socket, environment: dict[str, str]) -> None:
    """Give a job's socket to a server, which is started where there is none."""
    read_once = {name: value for name, value in environment.items() if name.startswith(_READ_ONCE)}
    key = os.getpid(), tools.python(), *sorted(read_once.items())
    with _starting:
        try:
            socket.send_fds(_servers[key].control, [b"\0"], [job.fileno()])
        except (KeyError, OSError):  # there is none, or it has ended
            _end(_servers.pop(key, None))
            _servers[key] = _start(environment)
            socket.send_fds(_servers[key].control, [b"\0"], [job.fileno()])


def _start(environment: dict[str, str]) -> _Server:
    ours, theirs = socket.socketpair()
    with theirs:
        process = Popen(
            [tools.python(), "-P", str(_PROGRAM), str(theirs.fileno())],  # our package gguf is not the one
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env=environment,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return _Server(process, ours)


def _end(server: _Server | None) -> None:
    if server:
        server.control.close()
        server.process.kill()
        server.process.wait()


@atexit.register
def end_all() -> None:
    """End all servers, and what runs in them."""
    while _servers:
        _end(_servers.popitem()[1])
