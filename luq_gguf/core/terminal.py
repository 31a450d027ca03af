"""Whether the terminal, or the person in front of it, wants text without colours and other escapes."""

from __future__ import annotations

import os


def is_dumb() -> bool:
    """Return whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def is_plain() -> bool:
    """Return whether NO_COLOR is set (no-color.org) or the terminal is a dumb one."""
    return bool(os.environ.get("NO_COLOR")) or is_dumb()
