"""Defines the reporter, which is told what a stage does. Nothing below the command line prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


def _no_progress(stage: str, done: float, total: float) -> None:
    pass


def _no_info(sentence: str) -> None:
    pass


@dataclass(frozen=True)
class Reporter:
    """Receives what happens: the progress of a named stage (done, total; a total of 1.0 is for shares), and sentences
    worth knowing. Without arguments it is silent."""

    progress: Callable[[str, float, float], None] = _no_progress
    info: Callable[[str], None] = _no_info

    def once(self) -> Reporter:
        """Return this reporter, but so that it passes on each sentence only once."""
        passed_on: set[str] = set()

        def info(sentence: str) -> None:
            if sentence not in passed_on:
                passed_on.add(sentence)
                self.info(sentence)

        return replace(self, info=info)
