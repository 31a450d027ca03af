"""A GGUF file that is somewhere else, here as its header before a hole: enough to ask llama.cpp what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.llamacpp.gguf import validate
from luq_gguf.llamacpp.gguf.validate import GGUFHeader

FIRST, MOST = 2**20, 19 * 2**20  # bytes asked for at first, and at most; vocabularies of 262 144 tokens take 16 MB
_LEAST = 24  # bytes of GGUF's magic number, version and counts


def write(out: Path, n_bytes: int, read: Callable[[int, int], bytes]) -> GGUFHeader:
    """Write the header of a file of `n_bytes` and a hole for the rest, and return the header.

    `read` gives the file's bytes from one place up to another; more and more are asked for, until the header is whole.
    Raises GGUFFileError where that would be more than MOST, or the header contradicts itself or the file's size.
    """
    if n_bytes < _LEAST:
        raise GGUFFileError(f"{out.name} is too short for a GGUF file.", "Choose another repository.")
    data, end = b"", FIRST
    while True:
        end = min(end, n_bytes, MOST)
        piece = read(len(data), end)
        if len(piece) != end - len(data):
            raise GGUFFileError(f"{out.name} is shorter than its repository says.", "Try again later.")
        data += piece
        try:
            header = validate.check_bytes(data, out.name, n_bytes)
            break
        except validate.LongerHeaderError:
            if end == MOST:
                raise GGUFFileError(
                    f"The header of {out.name} is longer than {MOST // 2**20} MiB.",
                    "Download the file, and give its folder.",
                ) from None
        end *= 2
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data[: header.end])
    try:
        os.truncate(out, n_bytes)
    except OSError as error:
        raise GGUFFileError(
            f"A file of {n_bytes} bytes cannot be outlined in {out.parent}: {error.strerror}.",
            "Set TMPDIR to a folder on another disk.",
        ) from None
    return header
