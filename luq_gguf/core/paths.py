"""Tells where luq-gguf keeps files that outlive a run folder, and which checkpoint a user means."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache(name: str) -> Path:
    """Return a path in the user's cache folder, on Linux $XDG_CACHE_HOME/luq-gguf (~/.cache/luq-gguf). Nothing is
    created there.

    vendor/build.py, which runs before any package is installed, finds the same folder on Linux by itself.
    """
    return platformdirs.user_cache_path("luq-gguf", appauthor=False) / name


def absolute_model(model: str) -> str:
    """Return a checkpoint as it is recorded: a folder by its absolute path, with its name as it was given even if that
    is a link; a Hub id, or what does not exist, as it is."""
    folder = Path(model).expanduser()
    return os.path.abspath(folder) if folder.exists() else model
