"""A Ctrl-C that Python drops still ends the program."""

import subprocess
import sys

PROGRAM = """
import os, signal
from luq_gguf import interrupts
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


def test_nothing_happens_without_a_signal():
    from luq_gguf import interrupts

    assert interrupts.check() is None
