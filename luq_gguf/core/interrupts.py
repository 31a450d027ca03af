"""Makes sure that Ctrl-C is never lost while a command runs.

Python raises KeyboardInterrupt wherever the program happens to be. In a destructor or a fork callback it is printed and
dropped, and the program would run on. So the command line also remembers the signal, and places that come by often ask.
Calls of the library install nothing: there a KeyboardInterrupt is Python's own.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []


@contextmanager
def remembered() -> Iterator[None]:
    """Do what `install` does while inside; afterwards everything is as it was."""
    restore = install()
    try:
        yield
    finally:
        restore()


def install() -> Callable[[], None]:
    """Remember SIGINT and SIGTERM from now on, and raise KeyboardInterrupt for both.

    Returns what undoes it. In a thread other than the main one, which alone can have handlers, nothing is done.
    """
    if not _in_main_thread():
        return lambda: None
    _received.clear()
    handlers = {number: signal.signal(number, _remember) for number in _SIGNALS}
    otherwise = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        """Python would print a traceback of what it drops; this one is not lost, so nobody needs to see it."""
        if not (_received and issubclass(dropped.exc_type, KeyboardInterrupt)):
            otherwise(dropped)

    def restore() -> None:
        sys.unraisablehook = otherwise
        for number, handler in handlers.items():
            if handler is not None:  # a handler that was not installed from Python cannot be put back from it
                signal.signal(number, handler)
        _received.clear()

    sys.unraisablehook = hook
    return restore


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _remember(number: int, frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def finish() -> None:
    """Ignore Ctrl-C from here on: the work is done, and Python on its way out would end by the signal."""
    _ignore(signal.SIGINT)


def ignore() -> None:
    """Ignore both signals from here on: the program is about to end by itself."""
    _ignore(*_SIGNALS)


def _ignore(*numbers: signal.Signals) -> None:
    if _in_main_thread():
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived, even one that was dropped."""
    if _received:
        raise KeyboardInterrupt
