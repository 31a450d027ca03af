"""What luq-gguf keeps in the user's cache folder, and removing it. What another process uses always stays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import atomic, paths
from luq_gguf.kernels import build as kernels
from luq_gguf.llamacpp.recipe import vendor

# By the beginning of a name in the cache folder.
KINDS = {
    "llama.cpp-": "llama.cpp",
    "kernels-": "kernels",
    "ggml-headers-": "ggml's headers",
    "build.log": "log of the last build",
    "checkpoints": "preflights of checkpoints",
    "eval": "measurements by eval",
    "hashes": "hashes of files",
    "selftests": "self-tests of your own llama.cpp",
    "speed": "speed of types",
}
LEFTOVER = "left by a killed build"


@dataclass(frozen=True)
class CacheEntry:
    """A file or a folder of the cache. `last_used` is in seconds since 1970; `current` is whether this version of
    luq-gguf would use it; `n_items` counts what lies directly in it."""

    kind: str
    path: Path
    n_items: int
    n_bytes: int
    last_used: float
    in_use: bool
    current: bool

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"path": str(self.path)}


def folder() -> Path:
    """Return the cache folder."""
    return paths.cache("")


def entries() -> list[CacheEntry]:
    """Return everything in the cache, and what killed builds left there and in TMPDIR."""
    places, recipe = vendor("places"), vendor("build")
    left: list[Path] = places.leftovers()
    work = folder() / places.WORK
    present = [*(folder().iterdir() if folder().is_dir() else ()), *(work.iterdir() if work.is_dir() else ())]
    opened = list(_opened_by_others([folder(), *left]))
    found = []
    for path in sorted({*present, *left} - {work}):
        kind = LEFTOVER if path in left else "build at work" if path.parent == work else _kind(path)
        locks = (places.LOCK, recipe.FACTS)
        busy = any(places.in_use(path / lock) for lock in locks) or any(name.is_relative_to(path) for name in opened)
        found.append(_measured(kind, path, in_use=busy, current=_is_current(kind, path)))
    return found


def remove(listed: Sequence[CacheEntry], *, everything: bool) -> list[CacheEntry]:
    """Remove what is not current, or `everything`, but nothing that is in use; return what was removed."""
    removed = [entry for entry in listed if not entry.in_use and (everything or not entry.current)]
    for entry in removed:
        atomic.remove(entry.path)
    return removed


def _kind(path: Path) -> str:
    return next((kind for beginning, kind in KINDS.items() if path.name.startswith(beginning)), "other")


def _is_current(kind: str, path: Path) -> bool:
    recipe = vendor("build")
    if kind == "llama.cpp":  # another version may be moving one here
        return bool(recipe.is_current(path)) or not (path / recipe.FACTS).exists()
    if kind == "kernels":
        return path == kernels.folder()
    if kind == "ggml's headers":
        return bool(path == recipe.headers_folder())
    return kind != LEFTOVER


def _measured(kind: str, path: Path, *, in_use: bool, current: bool) -> CacheEntry:
    files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    n_bytes, last_used = 0, 0.0
    for file in files:
        with suppress(FileNotFoundError):  # another process may have removed it
            status = file.lstat()
            is_folder = file.is_dir() and not file.is_symlink()
            n_bytes += 0 if is_folder else status.st_size
            last_used = max(last_used, status.st_mtime, 0 if is_folder else status.st_atime)
    n_items = sum(file.parent == path for file in files)
    return CacheEntry(kind, path, n_items, n_bytes, last_used, in_use, current)


def _opened_by_others(roots: Sequence[Path]) -> Iterator[Path]:
    """Yield files below some folders that other processes have open, have mapped (libraries), run, or work in; as far
    as Linux shows them to this user."""
    beginnings = tuple(os.path.realpath(root) for root in roots)
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        names = []
        with suppress(OSError):  # of another user, or ended
            names = [line.split(maxsplit=5)[-1] for line in (process / "maps").read_text(errors="replace").splitlines()]
            names += [os.readlink(link) for link in (*(process / "fd").iterdir(), process / "exe", process / "cwd")]
        yield from (Path(name) for name in dict.fromkeys(names) if name.startswith(beginnings))
