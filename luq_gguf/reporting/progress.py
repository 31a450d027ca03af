"""Shows what a call does, in the form that fits where it runs: bars on a terminal or in a notebook, lines in a log."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from luq_gguf.core.reporter import Reporter
from luq_gguf.core.terminal import is_dumb, is_plain
from luq_gguf.core.units import format_seconds

LINE_SECONDS = 30.0  # between lines of a stage in a log
TENTH_SECONDS = 5.0  # the same where another tenth of the stage is done


@contextmanager
def progress() -> Iterator[Reporter]:
    """Give a reporter that shows progress on stderr while inside: bars on a terminal and in a notebook, otherwise lines
    that are written at once, so that a log holds the last state of a process that was killed."""
    if _in_notebook():
        shown = _notebook_bars()
    elif sys.stderr.isatty() and not is_dumb():
        shown = _terminal_bars()
    else:
        shown = _lines()
    with shown as reporter:
        yield reporter


def _in_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _terminal_bars() -> Iterator[Reporter]:
    """One bar per stage, with rate and remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, color_system=None if is_plain() else "auto")
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def update(stage: str, done: float, total: float) -> None:
        scale = _scale(total)
        if not tasks:
            bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total * scale, rate="")
        bars.update(tasks[stage], completed=done * scale, total=total * scale)
        task = bars.tasks[bars.task_ids.index(tasks[stage])]
        bars.update(tasks[stage], rate=f"{task.speed:.1f}/s" if task.speed and scale == 1 else "")

    try:
        yield Reporter(update, lambda sentence: console.print(sentence, highlight=False, soft_wrap=True))
    finally:
        bars.stop()


@contextmanager
def _notebook_bars() -> Iterator[Reporter]:
    """A bar of tqdm per stage: a widget where the notebook has them, else a line of text that is written over."""
    kind = "notebook" if importlib.util.find_spec("ipywidgets") else "std"
    tqdm: Any = importlib.import_module(f"tqdm.{kind}").tqdm
    bars: dict[str, Any] = {}
    ended: set[str] = set()

    def update(stage: str, done: float, total: float) -> None:
        scale = _scale(total)
        if stage not in bars:
            if stage in ended and done >= total:  # what has ended is told again
                return
            bars[stage] = tqdm(desc=stage, total=round(total * scale), file=sys.stderr)
        bar = bars[stage]
        bar.total = round(total * scale)
        bar.update(round(done * scale) - bar.n)
        if done >= total:
            ended.add(stage)
            bars.pop(stage).close()

    try:
        yield Reporter(update, lambda sentence: tqdm.write(sentence, file=sys.stderr))
    finally:
        for bar in bars.values():
            bar.close()


def _scale(total: float) -> int:
    """Shares, whose total is 1.0, are shown in percent."""
    return 100 if total == 1.0 else 1


@dataclass
class _Stage:
    """A stage that has begun: when, where it stood then and stands now, and when a line was written of it."""

    began: float
    at_first: float
    done: float
    total: float
    written: float
    written_share: float


class _Log:
    """Writes a line when a stage begins and when it ends, and now and then between."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._open: dict[str, _Stage] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def update(self, name: str, done: float, total: float) -> None:
        with self._lock:
            now, share = self._clock(), done / total if total else 1.0
            if name not in self._open:
                if name in self._ended and share >= 1:  # what has ended is told again
                    return
                self._ended.discard(name)
                self._open[name] = _Stage(now, done, done, total, now, share)
                self._write(f"{name}: begins" + (f" at {_state(done, total)}" if done and share < 1 else ""))
            stage = self._open[name]
            stage.done, stage.total = done, total
            if share >= 1:
                self._end(name, "done", now)
            elif self._is_due(stage, now, share):
                stage.written, stage.written_share = now, share
                self._write(
                    f"{name}: {_state(done, total)} after {format_seconds(now - stage.began)}{_left(stage, now)}"
                )

    def _is_due(self, stage: _Stage, now: float, share: float) -> bool:
        waited = now - stage.written
        return waited >= LINE_SECONDS or (waited >= TENTH_SECONDS and int(10 * share) > int(10 * stage.written_share))

    def _end(self, name: str, word: str, now: float) -> None:
        stage = self._open.pop(name)
        self._ended.add(name)
        self._write(f"{name}: {word}, {_state(stage.done, stage.total)} in {format_seconds(now - stage.began)}")

    def close(self, word: str) -> None:
        """Tell how stages end that did not come to their total, which may have been an upper bound."""
        with self._lock:
            for name in list(self._open):
                self._end(name, word, self._clock())


def _state(done: float, total: float) -> str:
    return f"{done:.0%}" if total == 1.0 else f"{done:.0f}/{total:.0f}"


def _left(stage: _Stage, now: float) -> str:
    gained = stage.done - stage.at_first
    return (
        f", about {format_seconds((now - stage.began) * (stage.total - stage.done) / gained)} left"
        if gained > 0
        else ""
    )


@contextmanager
def _lines() -> Iterator[Reporter]:
    log = _Log(lambda line: _write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"))
    try:
        yield Reporter(log.update, _write)
    except BaseException:
        log.close("stopped")
        raise
    log.close("ended")


def _write(line: str) -> None:
    with suppress(OSError, ValueError):  # hours of work do not end because their log does
        print(line, file=sys.stderr, flush=True)
