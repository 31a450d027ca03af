"""Entries that luq-gguf adds to the metadata of GGUF files: their bytes, and how they get into a finished file.

llama-quantize writes them itself (--override-kv); the converter cannot, so they are put into an mmproj afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from luq_gguf.core import atomic, file_ranges
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import reader, validate

Entries = Mapping[str, str | int]
"""Key -> text, or a whole number that is kept as uint32: what --override-kv can write; or a truth value."""

LONGEST = 127
"""Bytes of a text that --override-kv takes (common/common.cpp, string_parse_kv_override)."""

CHECKPOINT = "luq.checkpoint"
"""The key that the text file and the mmproj of one checkpoint have in common."""


def string(text: str) -> bytes:
    """Return a text as GGUF stores it: its length in bytes, and UTF-8."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def entry(key: str, value: str | int) -> bytes:
    """Return an entry of the metadata as GGUF stores it."""
    if isinstance(value, str):
        return string(key) + struct.pack("<I", gguf.GGUFValueType.STRING) + string(value)
    if isinstance(value, bool):
        return string(key) + struct.pack("<I?", gguf.GGUFValueType.BOOL, value)
    return string(key) + struct.pack("<II", gguf.GGUFValueType.UINT32, value)


def growth(present: Mapping[str, Any], entries: Entries) -> int:
    """Return by how many bytes the metadata `present` grows when `entries` are set in it, replacing those it has."""
    return sum(len(entry(key, value)) - _size(present, key) for key, value in entries.items())


def _size(present: Mapping[str, Any], key: str) -> int:
    return len(entry(key, present[key])) if isinstance(present.get(key), str | int) else 0


def add(path: Path, entries: Entries) -> None:
    """Add entries to a file whose metadata does not have them; tensors keep their bytes and their order.

    The new file is written beside the old one and renamed when it is complete. Raises GGUFFileError for a file that
    is not a valid GGUF.
    """
    header = validate.check(path)
    source = reader.open_reader(path)
    added = b"".join(entry(key, value) for key, value in entries.items())
    with path.open("rb") as old:
        raw = old.read(header.end)
        infos_at = int(source.tensors[0].field.offset) if source.tensors else header.end
        (n_entries,) = struct.unpack_from("<Q", raw, 16)
        head = raw[:16] + struct.pack("<Q", n_entries + len(entries)) + raw[24:infos_at] + added + raw[infos_at:]
        data_at = padded(header.end, header.alignment)
        with atomic.whole(path) as part, part.open("wb") as new:
            new.write(head.ljust(padded(len(head), header.alignment), b"\0"))
            file_ranges.append(old, data_at, path.stat().st_size - data_at, new)
