"""Reads JSON from untrusted sources: bounded in size and depth, with one kind of error for everything that is wrong.

Python's parser takes a file of any size into memory, and raises RecursionError, which is not a ValueError, for
deep nesting; what it barely reads, other code cannot copy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LIMIT = (
    64 * 1024 * 1024
)  # bytes; the largest that is read here is the index of a mixture of many experts, a tenth of it
DEPTH = 64


def parse(raw: bytes | str, limit: int = LIMIT, *, unique: bool = False, finite: bool = False) -> Any:
    """Return the value. Raises ValueError, also if it is too long, too deep, not UTF-8, (where `unique`) has a key
    twice in one object, or (where `finite`) has NaN or Infinity, which Python reads and JSON does not have."""
    if len(raw) > limit:
        raise ValueError(f"longer than {limit} bytes")
    try:
        value = json.loads(
            raw, object_pairs_hook=_unique if unique else None, parse_constant=_no_number if finite else None
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def read(path: Path, limit: int = LIMIT, *, finite: bool = False) -> Any:
    """Return the value in a file. Raises ValueError as `parse` does, and OSError."""
    with path.open("rb") as file:
        return parse(file.read(limit + 1), limit, finite=finite)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f'the key "{twice[:40]}" occurs twice')
    return members


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [inner for element in level for inner in _inner(element)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _inner(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, dict | list)]
