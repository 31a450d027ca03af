"""In which form llama.cpp's converter is shown the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Rule:
    """What the converter is shown of the tensors whose names the regular expression `names` finds.

    What it finds becomes `become`, a template of `re.sub`; `axes` are the tensor's axes in their new order; and what is
    `left_out` is not shown. `half` is the file that the rule is for.
    """

    names: str
    become: str | None = None
    axes: tuple[int, ...] = ()
    left_out: bool = False
    half: Literal["text", "vision", "both"] = "both"

    def to_json(self) -> dict[str, Any]:
        """Return the rule as llamacpp/converter_child.py and recipe.json have it, without what it leaves as it is."""
        rule = {"names": self.names, "become": self.become, "axes": list(self.axes), "left_out": self.left_out}
        return {key: value for key, value in rule.items() if value not in (None, [], False)} | {"half": self.half}


View = tuple[Rule, ...]  # applied in their order, each to what the ones before have made of a name


def to_json(view: View) -> list[dict[str, Any]]:
    """Return a view as JSON has it."""
    return [rule.to_json() for rule in view]


def in_key(view: View) -> Sequence[object]:
    """Return what a view adds to the key of a result: nothing where the checkpoint is shown as it is."""
    return [to_json(view)] if view else []
