"""Sets how matplotlib reads text for as long as a figure is drawn. Figures are made without pyplot, whose backend
belongs to the whole process: a notebook shows its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SETTINGS = threading.RLock()


@contextmanager
def plain_text() -> Iterator[None]:
    """Take a "$" in a text as a "$" while inside, in one thread at a time."""
    import matplotlib

    with _SETTINGS, matplotlib.rc_context({"text.parse_math": False}):
        yield
