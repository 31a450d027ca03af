"""Defines who is told what a stage does. Nothing below the command line prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: progress of a named stage (done, total), and sentences worth knowing."""

    progress: Callable[[str, float, float], None] = lambda stage, done, total: None
    say: Callable[[str], None] = lambda sentence: None

    def once(self) -> Listener:
        """The same, told no sentence twice."""
        said: set[str] = set()

        def say(sentence: str) -> None:
            if sentence not in said:
                said.add(sentence)
                self.say(sentence)

        return replace(self, say=say)
