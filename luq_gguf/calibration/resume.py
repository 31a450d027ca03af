"""Keeps arrays of an interrupted pass: each file is whole, and is read only if its key is the same."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from luq_gguf.core import atomic


def save(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Save arrays under a temporary name, and rename the file when it is on the disk."""
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), **arrays)  # type: ignore[arg-type]
    with atomic.whole(path) as part, part.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return the saved arrays, or None where they are missing, unreadable or from other inputs."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, KeyError):
        return None
    return arrays if str(arrays.pop("key", "")) == key else None
