"""What a call shows of its progress, by where it runs: the right form, and in a log nothing is lost by a kill."""

import os
import pty
import re
import signal
import subprocess
import sys

from luq_gguf.core.units import format_seconds
from luq_gguf.reporting import progress

STAGES = """
with progress.progress() as reporter:
    for done in range(6):
        reporter.progress("calibration samples", done, 5)
    reporter.info("a sentence")
    reporter.progress("text model to F16", 0.4, 1.0)
"""


def shown(*before: str, program: str = STAGES, **where) -> subprocess.CompletedProcess[str]:
    """Run a program that knows `progress`, with warnings as errors."""
    lines = [*before, "from luq_gguf.reporting import progress", program]
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    return subprocess.run(command, text=True, timeout=120, **({"capture_output": True} | where))


def log_of(*calls: tuple[float, str, float, float]) -> list[str]:
    """What is written of (seconds, stage, done, total), and at the end."""
    now, lines = 0.0, []
    log = progress._Log(lines.append, lambda: now)
    for now, *call in calls:  # noqa: B007  the clock reads it
        log.update(*call)
    log.close("ended")
    return lines


def test_a_log_has_begin_end_and_now_and_then_a_share():
    calls = [(second, "samples", second, 100.0) for second in range(101)]
    assert log_of(*calls) == [
        "samples: begins",
        *(f"samples: {n}/100 after {format_seconds(n)}, about {format_seconds(100 - n)} left"
          for n in range(10, 100, 10)),
        "samples: done, 100/100 in 1 min 40 s",
    ]  # fmt: skip


def test_a_slow_stage_writes_every_30_seconds_and_a_quick_one_twice():
    slow = [(10.0 * n, "slow", n / 10000, 1.0) for n in range(7)]
    assert [line.partition(",")[0] for line in log_of(*slow)] == [
        "slow: begins", "slow: 0% after 30.0 s", "slow: 0% after 1 min 00 s", "slow: ended",
    ]  # fmt: skip
    quick = [(n / 100, "quick", n, 50) for n in range(51)]
    assert log_of(*quick) == ["quick: begins", "quick: done, 50/50 in 0.5 s"]


def test_a_stage_that_is_told_again_begins_again_only_with_work_left():
    calls = [(0, "files", 0, 2), (1, "files", 2, 2), (2, "files", 2, 2), (3, "files", 1, 2), (7500, "files", 2, 2)]
    assert log_of(*calls) == [
        "files: begins",
        "files: done, 2/2 in 1.0 s",
        "files: begins at 1/2",
        "files: done, 2/2 in 2 h 04 min",
    ]


def test_a_log_is_lines_with_the_time_and_without_control_characters():
    done = shown()
    assert (done.returncode, done.stdout) == (0, "")
    assert re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", done.stderr, flags=re.MULTILINE).splitlines() == [
        "calibration samples: begins",
        "calibration samples: done, 5/5 in 0.0 s",
        "a sentence",
        "text model to F16: begins at 40%",
        "text model to F16: ended, 40% in 0.0 s",
    ]


def test_the_last_state_is_in_the_log_of_a_killed_process(tmp_path):
    program = """
import os, signal
progress.LINE_SECONDS = 0.0
with progress.progress() as reporter:
    reporter.progress("calibration samples", 0, 128)
    reporter.progress("calibration samples", 77, 128)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with (tmp_path / "log").open("w") as log:
        done = shown(program=program, stderr=log, capture_output=False)
    assert done.returncode == -signal.SIGKILL
    assert "calibration samples: 77/128 after" in (tmp_path / "log").read_text().splitlines()[-1]


def test_a_log_on_a_full_disk_ends_nothing():
    with open("/dev/full", "w") as full:
        assert shown(stderr=full, capture_output=False).returncode == 0


def on_a_terminal(**environment: str) -> str:
    """What is shown on a terminal; NO_COLOR is not set but where it is given."""
    ours, theirs = pty.openpty()
    of_the_test = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = shown(stderr=theirs, stdout=subprocess.PIPE, capture_output=False, env=of_the_test | environment)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    return text


COLORED = re.compile(r"\x1b\[[\d;]*m")


def test_bars_have_no_colors_where_none_are_wanted_and_a_dumb_terminal_has_lines():
    plain = on_a_terminal(TERM="xterm", NO_COLOR="1")
    assert "\u2501" in plain
    assert not COLORED.search(plain)
    dumb = on_a_terminal(TERM="Dumb")
    assert "\x1b" not in dumb
    assert "calibration samples: begins" in dumb


def test_a_terminal_has_bars():
    text = on_a_terminal(TERM="xterm")
    assert COLORED.search(text)
    assert "\u2501" in text, "a bar of rich's"
    assert "5/5" in text
    assert "40/100" in text
    assert "begins" not in text


def test_a_notebook_without_widgets_has_a_line_that_is_written_over_and_no_warnings():
    """What tells a notebook is a kernel behind the shell; ipywidgets is not among the packages of the tests."""
    notebook = "import sys, types; shell = types.SimpleNamespace(kernel=True)"
    notebook += "; sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: shell)"
    done = shown(notebook)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Warning" not in done.stderr
    last = [line.split("\r")[-1] for line in done.stderr.splitlines()]
    assert any(re.match(r"calibration samples: 100%.* 5/5 ", line) for line in last), done.stderr
    assert "a sentence" in last
