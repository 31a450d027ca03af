"""What a sample asks, as keys of profiles, measurements and overlaps have it: the contents of all pictures, and every
turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from luq_gguf.core.types import Sample


def asked(sample: Sample, picture_key: Callable[[Path], str]) -> list[object]:
    """Return what a sample asks, JSON-like, without its answers: [picture or "", prompt] of a prompt with one picture
    at most, and [pictures, turns] of all others. `picture_key` names a picture by its contents."""
    keys = [picture_key(image) for image in sample.images]
    if sample.is_single:
        return ["".join(keys), sample.prompt]
    return [keys, [turn.to_json() for turn in sample.conversation]]
