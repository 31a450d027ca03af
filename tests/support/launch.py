"""Processes of one launch without a launcher that would end them: what they do to each other is theirs alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two processes on two cores; and the same rounding everywhere


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*of_each: tuple[object, ...]) -> list[subprocess.Popen[str]]:
    """One process for each tuple of luq-gguf's arguments, with the environment that launchers give."""
    together = {"WORLD_SIZE": str(len(of_each)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "luq_gguf", *map(str, arguments)],
            env=os.environ | ONE_THREAD | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, arguments in enumerate(of_each)
    ]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def shard_folder(out: Path, rank: int, count: int = 2) -> Path:
    return out / ".work" / "shards" / f"{rank}-of-{count}"
