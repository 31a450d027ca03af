"""Hashes of files' contents, each made once, and short keys of what a result depends on.

A key is made of the contents that decide a result: never of a path, a time or a device. So that large files are not
read again for it, the hash of a file is kept in the user's cache under device, inode, size, mtime and ctime. The
system sets the last of these whenever a file's contents or its other times change, and no program can set it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from luq_gguf.core import machine, paths

KEPT_FROM = 2**20  # bytes; smaller files are read again as fast as their hash is looked up
_TICK = 0.1  # seconds: within one tick of a file system's clock, a file can change twice under the same ctime
_COARSE_TICK = 2.0  # where times are whole seconds
# One hash for each inode: whoever writes one replaces that of the file's former contents.
_TABLES = """
CREATE TABLE IF NOT EXISTS hashes (device, inode, size, mtime, ctime, sha256, PRIMARY KEY (device, inode));
CREATE TABLE IF NOT EXISTS answers (question, sha256, PRIMARY KEY (question, sha256));
"""


def hash_of(*inputs: object) -> str:
    """Return a short key of JSON-like inputs: 24 hex digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:24]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's contents in hex, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_of(path: Path) -> str:
    """Return the sha256 of a file's contents in hex, read only where they may have changed since it was last asked.

    A cache that cannot be read or written costs time alone. Raises OSError.
    """
    before = _identity(path)
    if path.stat().st_size < KEPT_FROM:
        return sha256_of(path)
    rows = _query("SELECT sha256 FROM hashes WHERE device=? AND inode=? AND size=? AND mtime=? AND ctime=?", before)
    if rows:
        return rows[0][0]
    ctime = path.stat().st_ctime_ns
    tick, age = _TICK if ctime % 10**9 else _COARSE_TICK, time.time() - ctime / 1e9
    if 0 <= age < _TICK == tick:  # just written: a moment's wait, and its hash can be kept
        time.sleep(_TICK - age)
        before, age = _identity(path), _TICK
    digest = sha256_of(path)
    if age >= tick and _identity(path) == before:
        _query("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)", [*before, digest])
    return digest


def contents_of(files: Sequence[Path]) -> list[str]:
    """Return `content_of` each file; several are read at once, for one core hashes slower than a disk reads."""
    if not files:
        return []
    with ThreadPoolExecutor(min(machine.cores(), len(files))) as pool:
        return list(pool.map(content_of, files))


def asked_once(question: str, content: str, answer: Callable[[], bool]) -> bool:
    """Return whether `answer` says yes of these contents (their `content_of`); a yes is kept. Raises what it raises."""
    if _query("SELECT sha256 FROM answers WHERE question=? AND sha256=?", [question, content]):
        return True
    given = answer()
    if given:
        _query("INSERT OR IGNORE INTO answers VALUES (?, ?)", [question, content])
    return given


def settled(path: Path) -> tuple[str, ...] | None:
    """Return what stands for a file's contents as long as it is the same: where it lies, its size and its times. None
    where it was changed so lately that it may change again under the same times. Raises OSError."""
    ctime = path.stat().st_ctime_ns
    tick = _TICK if ctime % 10**9 else _COARSE_TICK
    return tuple(_identity(path)) if time.time() - ctime / 1e9 >= tick else None


def _identity(path: Path) -> list[str]:
    status = path.stat()  # as text: inodes and times may exceed what SQLite takes as an integer
    return [str(n) for n in (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)]


def _query(sql: str, values: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of a query of the kept hashes; none where they cannot be read or written."""
    path = paths.cache("hashes.sqlite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
            connection.execute("PRAGMA synchronous=OFF")  # to lose it costs time alone
            connection.executescript(_TABLES)
            return connection.execute(sql, values).fetchall()
    except (OSError, sqlite3.OperationalError):  # no folder, no lock, no right to write
        return []
    except sqlite3.DatabaseError:  # damaged
        with suppress(OSError):
            path.unlink()
        return []
