"""What is known, and kept in run.json, of how llama.cpp shows pictures to a converted model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from luq_gguf.core.fit_rule import FitRule
from luq_gguf.core.picture_geometry import LimitOptions, PictureViews

EXAMPLE = (640, 480)  # pixels


@dataclass(frozen=True)
class ShownPictures:
    """The token limits that llama.cpp's tools have to be told, what both sides make of an EXAMPLE, and the rule that
    the processor resizes pictures by, where one is known."""

    limits: LimitOptions = field(default_factory=LimitOptions)
    example: PictureViews | None = None
    rule: FitRule | None = None

    @classmethod
    def of_record(cls, record: Any) -> ShownPictures:
        """Return what run.json has of it; nothing known where there is no such record, or another version's."""
        try:
            return msgspec.convert(record, cls)
        except msgspec.ValidationError:
            return cls()

    def to_record(self) -> Any:
        """Return what run.json is to have of it."""
        return msgspec.to_builtins(self)

    @property
    def differs(self) -> bool:
        """Whether llama.cpp shows the model other pixels of the EXAMPLE than its processor does."""
        return self.example is not None and not self.example.agree
