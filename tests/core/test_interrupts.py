"""A Ctrl-C that Python drops still ends the program, and one call's does not end the next."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from luq_gguf import cli
from luq_gguf.core import interrupts

PROGRAM = """
import os, signal
from luq_gguf.core import interrupts
interrupts.install()
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        sum(range(1000))  # the handler runs here, and what it raises is dropped
Dropping()
print("ran on", flush=True)
try:
    interrupts.check()
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_signal_dropped_in_a_destructor_is_remembered():
    for name in ("SIGINT", "SIGTERM"):
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(name=name)], capture_output=True, text=True)
        assert done.stdout.split() == ["ran", "on", "stopped"], name
        assert done.stderr == "", "no traceback of what is not lost"


def test_other_dropped_exceptions_are_still_told():
    program = "from luq_gguf.core import interrupts\ninterrupts.install()\n"
    program += "class Wrong:\n    def __del__(self):\n        raise ValueError('a defect')\nWrong()\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ValueError: a defect" in done.stderr


def test_nothing_happens_without_a_signal():
    assert interrupts.check() is None


def test_the_exit_code_is_130_wherever_it_comes(tmp_path):
    """In the middle of exec, as dataclasses use it, Python remembers the interrupt and would die of it at its end."""
    (tmp_path / "interrupted.py").write_text("""
import os, signal
from luq_gguf import cli
inside = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
cli.cli.main = lambda **_: exec(inside)
cli.program()
""")
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "Interrupted" in done.stderr
    assert done.returncode == 130


def test_a_rank_that_leaves_the_last_word_to_another_ends_with_130_too(tmp_path):
    (tmp_path / "quiet.py").write_text("""
import os, signal
from luq_gguf import cli
inside = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
def main(**_):
    try:
        exec(inside)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
cli.cli.main = main
cli.program()
""")
    done = subprocess.run([sys.executable, "-m", "quiet"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_process_of_a_launch_prints_all_and_runs_what_is_registered_for_its_end(tmp_path):
    (tmp_path / "rank.py").write_text("""
import atexit
from luq_gguf import cli
atexit.register(print, "registered", end="")
cli.cli.main = lambda **_: print("printed", end=" ")
cli.program()
""")
    launch = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "rank"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=launch)
    assert (done.returncode, done.stdout, done.stderr) == (0, "printed registered", "")


def test_ctrl_c_after_the_work_is_done_changes_nothing(tmp_path):
    (tmp_path / "finished.py").write_text("""
import atexit, os, signal
from luq_gguf import cli
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
cli.cli.main = lambda **_: 0
cli.program()
""")
    command = [sys.executable, "-m", "finished"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def interrupted(**_):
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))


def undisturbed(**_):
    interrupts.check()


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook


def test_a_call_from_python_leaves_handlers_as_they_were_and_no_interrupt_to_the_next(monkeypatch):
    before = handlers()
    for command, code in ((interrupted, 130), (undisturbed, 0), (undisturbed, 0)):
        monkeypatch.setattr(cli.cli, "main", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
        assert handlers() == before
        assert interrupts.check() is None


def test_a_call_from_a_thread_needs_no_handlers(monkeypatch):
    monkeypatch.setattr(cli.cli, "main", undisturbed)
    codes = []

    def call():
        try:
            cli.main()
        except SystemExit as end:
            codes.append(end.code)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert codes == [0]
