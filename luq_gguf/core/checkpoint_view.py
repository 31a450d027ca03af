"""In which form llama.cpp's converter is shown a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Half = Literal["text", "vision", "both"]  # the file that something is for


@dataclass(frozen=True)
class Rule:
    """What the converter is shown of the tensors whose names the regular expression `names` finds.

    What it finds becomes `become`, a template of `re.sub`; `axes` are the tensor's axes in their new order; and what is
    `left_out` is not shown.
    """

    names: str
    become: str | None = None
    axes: tuple[int, ...] = ()
    left_out: bool = False
    half: Half = "both"

    def to_json(self) -> dict[str, Any]:
        """Return the rule as llamacpp/converter_child.py and recipe.json have it, without what it leaves as it is."""
        rule = {"names": self.names, "become": self.become, "axes": list(self.axes), "left_out": self.left_out}
        return {key: value for key, value in rule.items() if value not in (None, [], False)} | {"half": self.half}


@dataclass(frozen=True)
class Architecture:
    """The architecture by which the converter takes one half, in place of what config.json says."""

    name: str
    half: Half

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it, without the key `names` of a rule."""
        return {"architecture": self.name, "half": self.half}


View = tuple[Rule | Architecture, ...]  # rules are applied in their order, each to the name that the last one made


def to_json(view: View) -> list[dict[str, Any]]:
    """Return a view as JSON has it."""
    return [rule.to_json() for rule in view]


def of_text(view: View) -> View:
    """Return what a view has for the text model's file."""
    return tuple(part for part in view if part.half != "vision")


def in_key(view: View) -> Sequence[object]:
    """Return what a view adds to the key of a result: nothing where the checkpoint is shown as it is."""
    return [to_json(view)] if view else []
