"""Hashes of files' contents, and short keys of what a result depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def hash_of(*inputs: object) -> str:
    """Return a short key of JSON-like inputs: 24 hex digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:24]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's contents in hex, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
