"""`convert` that is stopped at random moments and started again until it is done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STAGES = ("door", "profile", "plan", "f16", "foreseen", "mmproj", "quantize")
PASSING = "f16"  # its file is deleted and its record forgotten when the last stage is done


@dataclass(frozen=True)
class Stop:
    """One run that was stopped: after how many seconds, in which stage, and what it left."""

    seconds: float
    stage: str
    exit_code: int
    told: str


def convert(model: Path, out: Path, calibration: Path, *, samples: int = 12, low: str = "Q2_K") -> list[str]:
    """A whole conversion that takes as little time as one can: Q2_K is quantized ten times as fast as IQ1_M."""
    how = ["--samples", str(samples), "--low", low, "--low-layers", "6", "--threads", "1"]
    command = [sys.executable, "-m", "luq_gguf", "convert", str(model), "--out", str(out)]
    return [*command, "--calib", str(calibration), *how]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def records(folder: Path) -> dict[str, dict]:
    """The finished stages as run.json has them; empty where it is not there yet."""
    path = folder / "run.json"
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files but those that tell times: what must be the same after any disturbance."""
    told = ("run.json", ".lock")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in told
    }


def undisturbed(command: Sequence[str], folder: Path) -> tuple[dict[str, bytes], dict[str, float]]:
    """Files and seconds of each stage, "start" being what comes before the first one."""
    began = time.monotonic()
    child = start(command)
    _, told = child.communicate()
    assert child.returncode == 0, told
    seconds = {name: record["seconds"] for name, record in records(folder).items()}
    return files(folder), seconds | {"start": max(0.0, time.monotonic() - began - sum(seconds.values()))}


def stopped(
    command: Sequence[str],
    folder: Path,
    seconds: dict[str, float],
    number: int,
    rng: random.Random,
    most: int,
    share: float = 1.0,
) -> Iterator[Stop]:
    """Stop the command `most` times at moments drawn evenly from what is left of it, or the first `share` of that; then
    let it end.

    Asserts that no stage is done twice: its record stays as it was.
    """
    for _ in range(most):
        known = records(folder)
        left = seconds["start"] + sum(took for name, took in seconds.items() if name not in {*known, "start"})
        delay = rng.uniform(0, share * left)
        child = start(command)
        try:
            _, told = child.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
            _, told = child.communicate(timeout=120)
        assert_kept(known, records(folder))
        if child.returncode == 0:
            return
        stage = next((name for name in STAGES if name not in records(folder)), "end")
        yield Stop(delay, stage, child.returncode, told)
    known = records(folder)
    child = start(command)
    _, told = child.communicate()
    assert child.returncode == 0, told
    assert_kept(known, records(folder))


def assert_kept(before: dict[str, dict], after: dict[str, dict]) -> None:
    for name, record in before.items():
        assert name in after or name == PASSING, f"{name} is forgotten"
        assert after.get(name, record) == record, f"{name} was done again"


def is_expected(stop: Stop, number: int) -> bool:
    """Ended by the signal, or, for Ctrl-C, with the exit code and the sentence that people see."""
    if number == signal.SIGKILL:
        return stop.exit_code == -signal.SIGKILL
    if stop.seconds < 1.5 and stop.exit_code == -number and "Interrupted" not in stop.told:
        return True  # Python had not begun to listen yet
    return stop.exit_code == 130 and "resumes where this one stopped" in stop.told and "Traceback" not in stop.told
