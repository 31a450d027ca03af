"""Writes files and folders whole: under a temporary name next to their own, and renamed when nothing is missing.

A killed process leaves at most `<name>.luq.part`; in a run folder the next run removes those. Other people's files
end with .part too, such as unfinished downloads.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".luq.part"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give `<path>.luq.part` to be written, a file or a folder; it takes the name `path` when the block ends, replacing
    a file of that name. Where the block raises, it is removed and `path` stays as it was."""
    part = path.with_name(path.name + SUFFIX)
    try:
        yield part
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # what the block raised says more
            remove(part)
        raise


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Give `<path>.part` to be written; it is removed when the block ends."""
    part = path.with_name(path.name + SUFFIX)
    try:
        yield part
    finally:
        remove(part)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that takes the name `path` when the block ends, for folders that several processes may make
    at once: where another was faster, its folder stays. The given folder's parent is removed with all else in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=path.name + ".", dir=path.parent) as name:
        folder = Path(name) / "whole"
        folder.mkdir()
        yield folder
        with suppress(OSError):
            folder.rename(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with everything in it; do nothing where there is none."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
