"""What a user allows a plan to do, beside its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlanRules:
    """Layers that never become low (`keep`), the only ones that may (`low_only`; None: all), and types of the head
    (`output_type`) and of the embeddings (`embedding_type`; None: the stock ones). A negative layer counts from the
    last one, which is -1."""

    keep: tuple[int, ...] = ()
    low_only: tuple[int, ...] | None = None
    output_type: str | None = None
    embedding_type: str | None = None

    def __bool__(self) -> bool:
        """Return whether anything was asked for."""
        return self != PlanRules()

    @property
    def options(self) -> tuple[str, ...]:
        """Return the command line's options that ask for these rules."""
        given = (
            ("--keep", listed(self.keep) if self.keep else None),
            ("--low-only", None if self.low_only is None else listed(self.low_only)),
            ("--output-type", self.output_type),
            ("--embedding-type", self.embedding_type),
        )
        return tuple(f"{option} {value}" for option, value in given if value is not None)

    @property
    def sentence_part(self) -> str:
        """Return " with --keep 0,1 and --output-type Q8_0", for messages; empty without rules."""
        return f" with {' and '.join(self.options)}" if self else ""

    def kept(self, n_layers: int) -> frozenset[int]:
        """Return the layers of a model that never become low. Layers must count from 0 here."""
        allowed = range(n_layers) if self.low_only is None else self.low_only
        return frozenset(range(n_layers)) - (frozenset(allowed) - frozenset(self.keep))

    def to_json(self) -> dict[str, Any]:
        """Return the rules that were given."""
        before = vars(PlanRules())
        given = {name: value for name, value in vars(self).items() if value != before[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def listed(layers: Sequence[int]) -> str:
    """Return layers as the command line takes them: 0,1,27."""
    return ",".join(map(str, layers))
