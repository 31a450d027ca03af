"""llama-server of one file, for as long as somebody asks it."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

from luq_gguf.core import interrupts, machine
from luq_gguf.core.errors import LuqError, RunnerError
from luq_gguf.llamacpp import child, tools

HOST = "127.0.0.1"
READY_SECONDS = 1800.0  # a large file on a slow disk takes minutes


@contextmanager
def serve(
    model: Path,
    mmproj: Path | None,
    log: Path,
    *,
    threads: int | None = None,
    n_ctx: int = 4096,
    gpu_layers: int | None = None,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> Iterator[str]:
    """Yield the address of a llama-server that answers one question at a time; it ends when the context does.

    Its output goes to `log`. Raises RunnerError where the file does not load, and where the server ended meanwhile.
    """
    port = _free_port()
    command = [tools.find().tool("llama-server"), "-m", model, "-c", n_ctx, "--host", HOST, "--port", port]
    command += ["-np", 1, "--jinja", "--no-cache-prompt", "--no-webui"]  # one slot, nothing kept: an answer depends on
    command += ["--mmproj", mmproj] if mmproj else []  # its question alone
    command += ["--threads", threads or machine.cores()]
    command += [] if gpu_layers is None else ["-ngl", gpu_layers]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
    with (
        log.open("wb") as out,
        child.started(command, environment, stdin=DEVNULL, stdout=out, stderr=STDOUT) as server,
    ):
        try:
            progress(0, 1)
            _wait(server, port, model, log)
            progress(1, 1)
            yield f"http://{HOST}:{port}"
        except LuqError:
            if server.poll() is not None:  # what was said meanwhile is only what followed from that
                raise _ended(server, model, log) from None
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(server: Popen[str], port: int, model: Path, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while not _healthy(port):
        interrupts.check()
        if server.poll() is not None:
            raise _ended(server, model, log)
        if time.monotonic() > until:
            raise RunnerError(
                f"llama-server did not load {model.name} within {READY_SECONDS / 60:.0f} minutes:\n{_tail(log)}",
                "Choose a smaller --ctx, or a machine with more memory.",
            )
        time.sleep(0.1)
    if server.poll() is not None:  # somebody else's server answered on this port
        raise _ended(server, model, log)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)  # knows no proxies
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ended(server: Popen[str], model: Path, log: Path) -> LuqError:
    code = server.wait()
    words = _tail(log)
    how = f"llama-server {child.ended(code)} on {model.name}:\n{words}"
    return child.failed(RunnerError, code, how, words, "The lines above are llama.cpp's own.")


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-3:])
