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
        """Return the object that JSON has of it."""
        content: dict[str, Any] = to_json(self)
        return content


def to_json(value: Any) -> Any:
    """Return a value of frozen dataclasses, mappings and sequences as JSON has it: objects, lists and scalars."""
    return _with_lists(msgspec.to_builtins(value))


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def given(value: T | UnsetType) -> T | None:
    """Return the value of a field; None where its key is missing."""
    return None if isinstance(value, UnsetType) else value
