"""Defines the reporter, which is told what a stage does. Nothing below the command line prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Reporter:
    """Receives what happens: the progress of a named stage (done, total), and sentences worth knowing."""

    progress: Callable[[str, float, float], None] = lambda stage, done, total: None
    info: Callable[[str], None] = lambda sentence: None

    def once(self) -> Reporter:
        """Return this reporter, but so that it passes on each sentence only once."""
        passed_on: set[str] = set()

        def info(sentence: str) -> None:
            if sentence not in passed_on:
                passed_on.add(sentence)
                self.info(sentence)

        return replace(self, info=info)
