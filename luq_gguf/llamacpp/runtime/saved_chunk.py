"""Reads what libmtmd saves of a piece of a prompt (mtmd_input_chunk_save): the only place where its interface tells to
how many pixels a picture was resized.

Source: mtmd_serialization of the pinned llama.cpp, tools/mtmd/mtmd.cpp.
"""

from __future__ import annotations

import struct

VERSION = 2  # MTMD_SERIALIZATION_VERSION


def picture_sizes(saved: bytes) -> list[tuple[int, int]]:
    """Return width and height of each picture that is computed for a piece of an image. Raises ValueError for another
    version's bytes, and for a piece that is not of an image."""
    at = 0

    def take(layout: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{layout}", saved, at)
        at += struct.calcsize(f"<{layout}")
        return values

    try:
        version, _, n_text = take("QIQ")
        if version != VERSION:
            raise ValueError(f"libmtmd saves pieces of a prompt in version {version}, not {VERSION}")
        at += 4 * n_text
        (is_image,) = take("?")
        if not is_image:
            raise ValueError("libmtmd has not saved an image")
        *_, n_name = take("IIIIIQ")  # tokens in both directions, their positions, which image, frames; its name
        at += n_name
        _, n_entries = take("?Q")
        return [take("??iii")[-2:] for _ in range(n_entries)]  # type: ignore[misc]  # separators, padding, the size
    except struct.error as error:
        raise ValueError(f"libmtmd's saved piece of a prompt ends early: {error}") from None
