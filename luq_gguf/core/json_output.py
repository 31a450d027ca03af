"""Writes JSON that every parser reads: Python's own writes NaN and Infinity, which JSON does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from luq_gguf.core.errors import VerificationError


def indented(content: Any) -> str:
    """Return indented JSON with a line end. Raises VerificationError where a number in it is not finite: such a figure
    was computed from damaged weights or measurements."""
    try:
        return json.dumps(content, indent=1, allow_nan=False) + "\n"
    except ValueError:
        where = next(_not_finite(content, ""), None)
        if where is None:
            raise
    raise VerificationError(
        f"The result is not finite at {where}.", "Check the files that it was computed from with luq-gguf verify."
    )


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """The places of numbers that are NaN or infinite, as "kld.mean" or "rows[0].tps"."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path or "its top level"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}[{number}]")
