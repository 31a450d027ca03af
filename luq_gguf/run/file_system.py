"""Tries in the preflight what a run will ask of its folder's file system, so that it does not fail after hours."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

from luq_gguf.core import atomic, unix
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.units import format_size

resource = unix.module("resource")

_ELSEWHERE = "Choose a folder on another disk, such as a local one."


def check_mapping(folder: Path) -> None:
    """Map a small file of a folder into memory as GGUF files are read. Raises RunFolderError with folder and reason."""
    with atomic.temporary(folder / "mapped") as probe:
        probe.write_bytes(b"GGUF")
        try:
            with probe.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
                pass
        except OSError as error:
            raise RunFolderError(
                f"The file system of {folder} cannot map files into memory ({error.strerror}), but GGUF files are read "
                "that way.",
                _ELSEWHERE,
            ) from None


def check_size(folder: Path, n_bytes: int) -> None:
    """Make a file of so many bytes without writing them. Raises RunFolderError where a file may not be that large."""
    with atomic.temporary(folder / "large") as probe, probe.open("wb") as file:
        try:
            file.truncate(n_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:  # room is checked elsewhere
                return
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if limit != resource.RLIM_INFINITY and limit < n_bytes:
                raise RunFolderError(
                    f"This process may write files of at most {format_size(limit)}, but this model needs one of "
                    f"{format_size(n_bytes)} in {folder}.",
                    "Raise the limit on file sizes (ulimit -f unlimited).",
                ) from None
            raise RunFolderError(
                f"The file system of {folder} does not take a file of {format_size(n_bytes)}, which this model needs.",
                "Choose a folder on another disk: FAT, for one, ends at 4 GiB.",
            ) from None
