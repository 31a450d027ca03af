"""Turns of a conversation, as chat templates take them: texts and pictures in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """What one side says. `role` is system, user or assistant; in `content`, None stands for the next picture."""

    role: str
    content: tuple[str | None, ...]

    @property
    def text(self) -> str:
        """All texts in one, without the pictures between them."""
        return "".join(part for part in self.content if part is not None)

    @property
    def n_pictures(self) -> int:
        return self.content.count(None)

    def to_json(self) -> list[Any]:
        """Return what goes into keys and to other processes: the role, and the content as a list."""
        return [self.role, list(self.content)]

    @staticmethod
    def from_json(value: Sequence[Any]) -> Turn:
        """Return the turn that `to_json` wrote."""
        role, content = value
        return Turn(str(role), tuple(content))


def prompt_turns(prompt: str, n_pictures: int = 0) -> tuple[Turn, ...]:
    """Return a prompt with so many pictures before it as the conversation that it is."""
    return (Turn("user", (*[None] * n_pictures, prompt)),)


def is_prompt(turns: Sequence[Turn]) -> bool:
    """Return whether a conversation is one prompt, with nothing but pictures before its text."""
    *before, last = turns[-1].content or (None,)
    return len(turns) == 1 and turns[0].role == "user" and last is not None and before == [None] * len(before)


def described(turns: Sequence[Turn]) -> str:
    """Return a conversation's size in words: "2 images in 3 turns"."""
    n, images, several = len(turns), n_pictures(turns), ("s", "")
    return f"{images or 'no'} image{several[images == 1]} in {n} turn{several[n == 1]}"


def n_pictures(turns: Sequence[Turn]) -> int:
    """Return how many pictures a conversation has."""
    return sum(turn.n_pictures for turn in turns)
