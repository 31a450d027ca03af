"""Connects the processes of one launch (torchrun, accelerate launch, srun): each tells all others its state twice a
second.

It goes through torch.distributed's gloo, also where GPUs compute: nothing but a word and a sentence is exchanged. All
ranks see the same words in the same turn, so all end together; a process that is gone breaks the connection, and one
whose machine is gone lets a turn time out.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from luq_gguf.core import interrupts
from luq_gguf.core.errors import LuqError, RankError

TURN_SECONDS = 0.5
TIMEOUT = timedelta(seconds=120)  # for all to start, and for a turn: then a machine counts as gone
ENDING_SECONDS = 10.0  # for the others to see how it ended
AGAIN = "The same command resumes where this one stopped."
_START, _WORK, _DONE, _IDLE, _FAILED, _STOPPED = "start", "work", "done", "idle", "failed", "stopped"
_ENDED = (_DONE, _IDLE, _FAILED, _STOPPED)


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is, and how many of them the launcher started on this machine, if it tells."""

    rank: int
    count: int
    local: int = 1

    @staticmethod
    def of_environment() -> Launch | None:
        """Return the launch, or None where no launcher started this process, or it started this one alone."""
        rank, count = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
        if not (rank.isdecimal() and count.isdecimal()) or int(count) < 2:
            return None
        local = os.environ.get("LOCAL_WORLD_SIZE", "")
        return Launch(int(rank), int(count), int(local) if local.isdecimal() else 1)


@dataclass(frozen=True)
class _State:
    word: str = _START
    message: str = ""
    hint: str = ""
    exit_code: int = 1


class Ranks:
    """All processes of a launch, as a context manager in each.

    Where another process fails or is gone, this one is interrupted and the context ends with RankError. Ranks other
    than 0 end the process quietly instead of raising: rank 0 says what happened.
    """

    def __init__(self, launch: Launch) -> None:
        self._rank, self._count = launch.rank, launch.count
        self._mine = _State()
        self._all: list[_State] = []
        self._lost = False
        self._heeded = False  # the main thread looks for itself, or has been interrupted already
        self._news = threading.Condition()
        self._turns = threading.Thread(target=self._take_turns, daemon=True)

    def __enter__(self) -> Ranks:
        import torch.distributed as dist

        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise RankError(
                f"RANK and WORLD_SIZE say that {self._count} processes run together, but MASTER_ADDR and MASTER_PORT "
                "do not say where they meet.",
                "Start them with torchrun or accelerate launch; or unset both, and use --shard and luq-gguf merge.",
            )
        try:
            dist.init_process_group("gloo", rank=self._rank, world_size=self._count, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            if self._rank:
                raise SystemExit(1) from None
            raise RankError(
                f"The {self._count} processes could not connect to each other: {_first_line(error)}", AGAIN
            ) from None
        self._turns.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        outcome = error
        if error is not None and isinstance(error, KeyboardInterrupt | RankError):
            outcome = self._failure() or error
        if outcome is None:
            return
        interrupts.ignore()  # the launcher ends all now; this one is about to
        # Rank 0 speaks for all, unless it may be the one that is gone.
        if self._rank and not (self._lost and self._rank == 1 and isinstance(outcome, RankError)):
            raise SystemExit(
                130 if isinstance(outcome, KeyboardInterrupt) else getattr(outcome, "exit_code", 1)
            ) from None
        if outcome is not error:
            raise outcome from None

    def wait_for_work(self) -> bool:
        """Wait for rank 0, which uses the run folder. Returns False where there is nothing to do."""
        self._wait(lambda states: states[0].word != _START)
        work = self._all[0].word != _IDLE
        self._mine = _State(_WORK if work else _IDLE)
        return work

    def nothing_to_do(self) -> None:
        """Let the others end, in rank 0."""
        self._mine = _State(_IDLE)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let the others begin, in rank 0; where this fails, they have ended, or nearly, when it is left."""
        self._mine = _State(_WORK)
        try:
            yield
        except BaseException as error:
            self._end(error)
            raise

    def wait_for_all(self) -> None:
        """Say that this process's work is done, and wait until all others' is."""
        self._mine = _State(_DONE)
        self._wait(lambda states: all(state.word == _DONE for state in states))

    def _wait(self, until: Callable[[list[_State]], bool]) -> None:
        self._heeded = True
        with self._news:
            while True:
                failure = self._failure()
                if failure:
                    raise failure
                if any(state.word == _STOPPED for state in self._all):
                    raise KeyboardInterrupt
                if self._all and until(self._all):
                    break
                interrupts.check()
                self._news.wait(TURN_SECONDS)
        self._heeded = False

    def _take_turns(self) -> None:
        import torch.distributed as dist

        try:
            while True:
                heard: list[_State] = [_State()] * self._count
                dist.all_gather_object(heard, self._mine)
                with self._news:
                    self._all = heard
                    self._news.notify_all()
                if any(state.word in (_FAILED, _STOPPED) for state in heard):
                    self._interrupt()
                if all(state.word in _ENDED for state in heard):
                    return
                time.sleep(TURN_SECONDS)
        except RuntimeError:  # gloo's errors: a connection is closed, or a turn took too long
            with self._news:
                self._lost = True
                self._news.notify_all()
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._heeded:
            self._heeded = True
            _thread.interrupt_main()

    def _failure(self) -> LuqError | None:
        """What happened to another rank, if anything did."""
        for rank, state in enumerate(self._all):
            if rank != self._rank and state.word == _FAILED:
                failure = RankError(f"Rank {rank}: {state.message}", state.hint)
                failure.exit_code = state.exit_code
                return failure
        if self._lost:
            return RankError("Another process of this launch is gone.", AGAIN)
        return None

    def _end(self, error: BaseException | None) -> None:
        """Tell the others how this one ended, and hear what became of them."""
        self._heeded = True
        if isinstance(error, LuqError) and not isinstance(error, RankError):
            self._mine = _State(_FAILED, error.message, error.hint, error.exit_code)
        elif isinstance(error, Exception) and not isinstance(error, RankError):
            self._mine = _State(_FAILED, f"{type(error).__name__}: {_first_line(error)}", AGAIN)
        elif error is not None:
            self._mine = _State(_STOPPED)
        self._turns.join(ENDING_SECONDS)
        if not self._turns.is_alive():
            import torch.distributed as dist

            with suppress(RuntimeError, AssertionError, ValueError):
                dist.destroy_process_group()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
