"""Frozen values of what `doctor` and `verify` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luq_gguf.core.agreement import Agreement


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is as it should be, what was found, and what to do if it is not."""

    name: str
    ok: bool
    found: str
    hint: str = ""

    @classmethod
    def passed(cls, name: str, found: str, hint: str = "") -> Check:
        return cls(name, ok=True, found=found, hint=hint)

    @classmethod
    def failed(cls, name: str, found: str, hint: str) -> Check:
        return cls(name, ok=False, found=found, hint=hint)


@dataclass(frozen=True)
class CheckReport:
    """All checks, in the order in which they were made, and what was measured against a checkpoint."""

    checks: tuple[Check, ...]
    agreement: Agreement | None = None

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        compared = {"against": self.agreement.to_json()} if self.agreement else {}
        return {"ok": self.ok, "checks": [dict(vars(check)) for check in self.checks]} | compared
