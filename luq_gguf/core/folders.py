"""Lists the files of a folder as people fill it: with links to other folders, and with hidden files of their system."""

from __future__ import annotations

import os
from pathlib import Path


def visible_files(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, through links to other folders too, each folder once: a link back to
    where it lies would have no end.

    What begins with a dot is hidden, and left out with all that is in it: macOS keeps attributes of a.png in ._a.png.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())
