"""Counts the questions that files are measured on and that the profile was calibrated with, too."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from luq_gguf.core.images import content_key
from luq_gguf.core.measurements import SharedCounts
from luq_gguf.core.profile_facts import Seen
from luq_gguf.core.sample_content import asked
from luq_gguf.core.types import Sample

_BYTES = 8  # of a hash: enough to tell a million samples apart


def seen(with_pictures: Iterable[Sample], lines: Iterable[Sample]) -> Seen:
    """Return what calibration with these samples leaves: those whose pictures the model saw, and all lines of the
    set, which may have been read without their pictures."""
    pictures = {_picture(image) for sample in with_pictures for image in sample.images}
    return Seen(_packed(pictures), _packed({_line(sample) for sample in lines}))


def shared(calibrated: Seen, questions: Sequence[Sample]) -> SharedCounts:
    """Count the questions whose picture, or which themselves, were calibrated with; none where the record is
    damaged."""
    pictures, lines = _unpacked(calibrated.pictures), _unpacked(calibrated.lines)
    return SharedCounts(
        shared_lines=sum(_line(question) in lines for question in questions),
        shared_pictures=sum(any(_picture(image) in pictures for image in question.images) for question in questions),
    )


def _picture(image: Path) -> bytes:
    try:
        return _hash(content_key(image))
    except OSError:  # of a line that was read without its picture
        return b""


def _line(sample: Sample) -> bytes:
    return _hash(json.dumps(asked(sample, lambda image: _picture(image).hex())))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_BYTES]


def _packed(hashes: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(hashes))).decode()


def _unpacked(text: str) -> set[bytes]:
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return set()
    return {content[at : at + _BYTES] for at in range(0, len(content), _BYTES)}
