"""What all frozen values that are written as JSON have in common."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType

T = TypeVar("T")


class JsonValue:
    """A frozen value whose fields are its keys on disk, in their order. A field that is UNSET is not written, where one
    that is None is null."""

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content


def given(value: T | UnsetType) -> T | None:
    """Return the value of a field; None where its key is missing."""
    return None if isinstance(value, UnsetType) else value
