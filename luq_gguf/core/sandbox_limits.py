"""Limits untrusted programs: chat templates are sandboxed, but can loop forever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luq_gguf.core import unix

resource = unix.module("resource")

TEMPLATE_SECONDS = 10.0  # rendering takes milliseconds
TEMPLATE_BYTES = 2**30


@contextmanager
def bounded(seconds: float = TEMPLATE_SECONDS, n_bytes: int = TEMPLATE_BYTES) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds, and MemoryError for so many bytes more than are in use now.

    Time is limited only in the main thread, and memory only where /proc tells how much is in use.
    """
    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, _late) if timed else None
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if room := _address_space():
            most = room + n_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
        if timed:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _late(number: int, frame: object) -> None:
    raise TimeoutError("it takes too long")


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * int(resource.getpagesize())
    except OSError:
        return 0
