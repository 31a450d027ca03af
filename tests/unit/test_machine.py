import subprocess
import sys
import time

from luq_gguf import machine


def test_the_peak_is_that_of_the_program_and_not_of_what_started_it():
    code = "import time; room = bytearray(b'x') * (150 * 2**20); del room; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    watch = machine.PeakMemory(child.pid)
    until = time.monotonic() + 30
    while watch.n_bytes < 150 * 2**20 and time.monotonic() < until:
        time.sleep(0.05)
    watch.stop()
    child.kill()
    child.wait()
    assert 150 * 2**20 <= watch.n_bytes < 200 * 2**20


def test_what_is_told_of_the_machine():
    told = machine.describe()
    assert told["cpu"]
    assert 0 < told["physical_cores"] <= told["logical_cores"]
    assert machine.available_bytes() < told["memory_bytes"]
    assert 0 <= machine.busy_share(0.1) <= 1
