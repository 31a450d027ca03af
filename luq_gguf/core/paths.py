"""Tells where luq-gguf keeps files that outlive a run folder."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache(name: str) -> Path:
    """Return a path in the user's cache folder, on Linux $XDG_CACHE_HOME/luq-gguf (~/.cache/luq-gguf). Nothing is
    created there.

    vendor/build.py, which runs before any package is installed, finds the same folder on Linux by itself.
    """
    return platformdirs.user_cache_path("luq-gguf", appauthor=False) / name
