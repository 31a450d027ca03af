"""Makes sure that Ctrl-C is never lost.

Python raises KeyboardInterrupt wherever the program happens to be. In a destructor or a fork callback it is printed and
dropped, and the program would run on. So the signal is also remembered, and places that come by often ask.
"""

from __future__ import annotations

import signal
import sys

_received: list[int] = []


def install() -> None:
    """Remember SIGINT and SIGTERM, and raise KeyboardInterrupt for both."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _remember)
    otherwise = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        """Python would print a traceback of what it drops; this one is not lost, so nobody needs to see it."""
        if not (_received and issubclass(dropped.exc_type, KeyboardInterrupt)):
            otherwise(dropped)

    sys.unraisablehook = hook


def _remember(number: int, frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def finish() -> None:
    """Ignore Ctrl-C from here on: the work is done, and Python on its way out would end by the signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived, even one that was dropped."""
    if _received:
        raise KeyboardInterrupt
