"""Tells where luq-gguf keeps files that outlive a run folder, and which checkpoint a user means."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from luq_gguf.core.errors import LuqError


def cache(name: str) -> Path:
    """Return a path in the user's cache folder, on Linux $XDG_CACHE_HOME/luq-gguf (~/.cache/luq-gguf). Nothing is
    created there. Raises LuqError where the user has no home folder.

    vendor/build.py, which runs before any package is installed, finds the same folder on Linux by itself.
    """
    try:
        folder = platformdirs.user_cache_path("luq-gguf", appauthor=False)
    except RuntimeError:
        folder = Path("~")
    if folder.parts[0] == "~":  # which could not be expanded
        raise LuqError(
            "This user has no home folder, so there is no place for luq-gguf's cache.",
            "Set HOME, or XDG_CACHE_HOME to a folder that can be written.",
        )
    return folder / name


def writable(name: str, info: Callable[[str], None] = lambda sentence: None) -> Path:
    """Return a folder in the user's cache, made if needed. Where it cannot be written, `info` is told and it is a
    temporary one, the same for as long as this process runs."""
    folder = cache(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        info(f"{folder} cannot be written ({error.strerror}), so nothing is kept there for later")
        return Path(_temporary(name).name)


@functools.cache
def _temporary(name: str) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"luq-{name}-")


def absolute_model(model: str) -> str:
    """Return a checkpoint as it is recorded: a folder by its absolute path, with its name as it was given even if that
    is a link; a Hub id, or what does not exist, as it is."""
    folder = Path(model).expanduser()
    return os.path.abspath(folder) if folder.exists() else model
