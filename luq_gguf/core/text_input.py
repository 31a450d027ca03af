"""Reads text files as people save them: UTF-8, with or without a byte order mark. Other encodings and archives are
named, because decoding them with replacements would change prompts, answers and perplexities without a word."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# What files begin with that are not text in UTF-8; UTF-32's mark begins with that of UTF-16.
_BEGINNINGS = {
    codecs.BOM_UTF32_LE: "in UTF-32",
    codecs.BOM_UTF32_BE: "in UTF-32",
    codecs.BOM_UTF16_LE: "in UTF-16",
    codecs.BOM_UTF16_BE: "in UTF-16",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive or an Excel sheet",
    b"PAR1": "a Parquet file",
}
_NOT_DECODED = re.compile("[\udc80-\udcff]")
HINT = "Save it as plain text in UTF-8."


def problem(path: Path) -> str | None:
    """Return what a file is where its beginning shows that it is not text in UTF-8 ("in UTF-16"). Raises OSError."""
    with path.open("rb") as file:
        start = file.read(4)
    for beginning, what in _BEGINNINGS.items():
        if start.startswith(beginning):
            return what
    if len(start) == 4 and start.count(0) == 2 and start[0] != start[1]:  # letters of ASCII without a mark before them
        return "in UTF-16"
    return None


def not_decoded(text: str) -> int | None:
    """Return where text that was decoded with "surrogateescape" has the first byte that is not UTF-8."""
    match = _NOT_DECODED.search(text)
    return match.start() if match else None


def read(path: Path, n_characters: int = -1) -> str:
    """Return a text, or its first characters, without the byte order mark. Raises OSError, and ValueError with what
    the file is where it is not text in UTF-8."""
    if what := problem(path):
        raise ValueError(what)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read(n_characters)
    at = not_decoded(text)
    if at is not None:
        raise ValueError(f"not UTF-8 (byte 0x{ord(text[at]) - 0xDC00:02x} in line {text.count(chr(10), 0, at) + 1})")
    return text
