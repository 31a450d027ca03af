"""Copies bytes from one file into another."""

from __future__ import annotations

import os
from typing import BinaryIO


def append(source: BinaryIO, offset: int, n_bytes: int, target: BinaryIO) -> None:
    """Append a stretch of a file to another, as `copy` does."""
    copy(source, offset, n_bytes, target, target.seek(0, os.SEEK_END))
    target.seek(0, os.SEEK_END)


def copy(source: BinaryIO, offset: int, n_bytes: int, target: BinaryIO, at: int) -> None:
    """Write a stretch of a file into another, from its byte `at` on; on file systems that can, without moving it
    through memory.

    Raises EOFError where the source ends too early.
    """
    target.flush()
    done = 0
    while done < n_bytes and hasattr(os, "copy_file_range"):  # Linux's
        try:
            moved = os.copy_file_range(source.fileno(), target.fileno(), n_bytes - done, offset + done, at + done)
        except OSError:
            moved = 0
        if not moved:
            break
        done += moved
    source.seek(offset + done)
    target.seek(at + done)
    while done < n_bytes:
        block = source.read(min(2**24, n_bytes - done))
        if not block:
            raise EOFError(f"{source.name} ends {n_bytes - done} bytes too early")
        target.write(block)
        done += len(block)
