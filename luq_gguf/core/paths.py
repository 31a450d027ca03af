"""Tells where luq-gguf keeps files that outlive a run folder."""

from __future__ import annotations

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
