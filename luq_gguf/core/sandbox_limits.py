"""Limits untrusted programs: chat templates are sandboxed, but can loop forever."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luq_gguf.core import process_state, unix

resource = unix.module("resource")

TEMPLATE_SECONDS = 10.0  # rendering takes milliseconds
TEMPLATE_BYTES = 2**30


@contextmanager
def bounded(seconds: float = TEMPLATE_SECONDS, n_bytes: int = TEMPLATE_BYTES) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds, and MemoryError for so many bytes more than are in use now.

    Time is limited only in the main thread, and memory only where /proc tells how much is in use. One thread at a time
    is inside, for both limits are the process's.
    """
    with process_state.LIMITS, _timed(seconds):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        try:
            if room := _address_space():
                most = room + n_bytes
                most = most if soft == resource.RLIM_INFINITY else min(most, soft)
                resource.setrlimit(resource.RLIMIT_AS, (most, hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _timed(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds; an alarm that was set before goes off later, when it is due."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    started, before = time.monotonic(), signal.signal(signal.SIGALRM, _late)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)


def _late(number: int, frame: object) -> None:
    raise TimeoutError("it takes too long")


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * int(resource.getpagesize())
    except OSError:
        return 0
