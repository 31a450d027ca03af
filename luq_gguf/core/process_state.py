"""Guards what a process has only one of, so that calls of the library from several threads do not disturb each other.

transformers sets torch's default dtype, and replaces functions of torch, while it makes a model, so neither another
model nor a forward pass may be computed meanwhile: both hold TORCH. Filters of warnings belong to the process too.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

TORCH = threading.RLock()
LIMITS = threading.RLock()  # of memory and time, as sandbox_limits.py sets them
_FILTERS = threading.RLock()


@contextmanager
def warnings_filtered(action: Literal["error", "ignore"], category: type[Warning] = Warning) -> Iterator[None]:
    """Raise or drop warnings of a category while inside, in one thread at a time."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter(action, category)
        yield
