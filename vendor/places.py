"""Where builds of llama.cpp are kept and made, and how what a killed one left there is found. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

WORK = "building"
LOCK = ".lock"
OLD = 6 * 3600  # seconds after which a folder without a lock is what a killed process left


class RecipeError(Exception):
    """What is wrong, in one sentence, and what to do about it, in another; `output` is the end of a program's own
    words."""

    def __init__(self, message: str, hint: str, output: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.output = message, hint, output

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.output, self.message, self.hint)))


def cache_root() -> Path:
    """Return the folder that builds are kept in. Raises RecipeError where the user has no home folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache") / "luq-gguf"
    except RuntimeError:
        raise RecipeError(
            "This user has no home folder, so there is no place for luq-gguf's cache.",
            "Set HOME, or XDG_CACHE_HOME to a folder that can be written.",
        ) from None


def is_executable(folder: Path) -> bool:
    """Return whether programs and libraries in a folder can be run: not on a file system mounted with noexec."""
    return not hasattr(os, "statvfs") or not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)


def check(n_bytes: int) -> None:
    """Raise RecipeError unless the cache can hold so many bytes, and what is built there can be run."""
    root = cache_root()
    elsewhere = "Set XDG_CACHE_HOME to a folder on another file system."
    try:
        (root / WORK).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root / WORK).close()
        free = shutil.disk_usage(root).free
        executable = is_executable(root)
    except OSError as error:
        raise unwritable(error) from None
    if not executable:
        raise RecipeError(f"{root} is on a file system that does not run programs (it is mounted noexec).", elsewhere)
    if free < n_bytes:
        raise RecipeError(
            f"{n_bytes / 1e6:.0f} MB are needed in {root}, but {free / 1e6:.0f} MB are free.",
            f"Free some space; `luq-gguf cache --clean` removes what is no longer used. {elsewhere}",
        )


def unwritable(error: OSError) -> RecipeError:
    """Return the error of a cache that cannot be written."""
    if error.errno == errno.ENOSPC:
        return RecipeError(
            f"The disk that holds {cache_root()} is full.", "Free some space and run the same command again."
        )
    return RecipeError(
        f"{cache_root()} cannot be written: {error.strerror}.", "Set XDG_CACHE_HOME to a folder that can be written."
    )


@contextlib.contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """An empty folder in the cache for one build; its lock is held by this process, however it ends. Raises RecipeError
    where the cache cannot be written."""
    import fcntl  # not on Windows, where nothing is built

    work = cache_root() / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        remove_leftovers()
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=work))
        lock = (folder / f"{LOCK}.new").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{LOCK}.new").rename(folder / LOCK)  # its holder has locked it before anybody can find it
    except OSError as error:
        raise unwritable(error) from None
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise unwritable(error) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def hold(file: Path) -> TextIO | None:
    """Share a lock on a file that `in_use` finds until it is closed, or this process ends. Returns None where there are
    no locks: then nothing is protected, and everything works."""
    try:
        import fcntl

        opened = file.open()
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return None
    return opened


def in_use(file: Path) -> bool:
    """Return whether another process holds a lock on a file; false where it cannot be opened, or there are no locks."""
    try:
        import fcntl

        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def leftovers() -> list[Path]:
    """Return what killed builds left behind: work folders whose lock nobody holds; and, once they are six hours old,
    folders beside their targets and pip's in TMPDIR, where older versions built."""
    root, temporary = cache_root(), Path(tempfile.gettempdir())
    beside = (path for pattern in ("*", "checkpoints/*") for path in root.glob(pattern))
    unlocked = [path for path in beside if re.search(r"[0-9a-f]{12,24}\.[a-z0-9_]{8}$", path.name)]
    unlocked += [path.parent for path in temporary.glob("pip-*/llama[-_]cpp[-_]python*")]
    old = [path for path in sorted(set(unlocked)) if is_old(path) and path.stat().st_uid == os.getuid()]
    return [*(path for path in sorted((root / WORK).glob("*")) if not _is_worked_in(path)), *old]


def _is_worked_in(folder: Path) -> bool:
    lock = folder / LOCK
    return in_use(lock) if lock.exists() else not is_old(folder)


def is_old(path: Path) -> bool:
    """Return whether nothing was made in a folder for six hours."""
    return time.time() - path.lstat().st_mtime > OLD


def remove_leftovers() -> None:
    """Remove what killed builds left behind."""
    for path in leftovers():
        shutil.rmtree(path, ignore_errors=True)
