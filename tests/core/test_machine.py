import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luq_gguf.core import machine


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
    assert told.cpu
    assert told.logical_cores is not None
    assert 0 < told.physical_cores <= told.logical_cores
    assert machine.available_bytes() < told.memory_bytes
    assert 0 <= machine.busy_share(0.1) <= 1


def cgroup(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


STAT2 = "anon 700\ninactive_file 200\nactive_file 100\nslab_reclaimable 30\nshmem 5"
STAT1 = "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 100"


def test_a_limit_of_any_cgroup_above_counts_and_files_that_were_read_are_free(tmp_path):
    cgroup(tmp_path, memory__stat=STAT2)  # the root has no limit
    cgroup(tmp_path / "a", memory__max=6000, memory__current=1000, memory__stat=STAT2, memory__swap__max="max")
    own = {"memory__max": "max", "memory__current": 900, "memory__stat": STAT2}
    cgroup(tmp_path / "a" / "b", **own)
    assert machine.cgroup_memory(tmp_path, "0::/a/b\n") == [
        machine.Memory(5330, sys.maxsize, str(tmp_path / "a" / "memory.max"))
    ]
    cgroup(tmp_path / "a" / "b", **own | {"memory__max": 1000, "memory__swap__max": 50, "memory__swap__current": 20})
    found = machine.cgroup_memory(tmp_path, "0::/a/b\n")
    assert found[0] == machine.Memory(430, 30, str(tmp_path / "a" / "b" / "memory.max"))
    assert len(found) == 2


def test_a_cgroup_over_its_limit_leaves_nothing(tmp_path):
    cgroup(tmp_path / "a", memory__max=1000, memory__current=5000, memory__stat=STAT2, memory__swap__max=0)
    assert machine.cgroup_memory(tmp_path, "0::/a")[0].available == 0


def test_version_1_counts_swap_with_memory(tmp_path):
    limits = {"memory__limit_in_bytes": 6000, "memory__usage_in_bytes": 1000, "memory__stat": STAT1}
    none = {"memory__limit_in_bytes": 2**63 - 4096, "memory__usage_in_bytes": 9000, "memory__stat": STAT1}
    cgroup(tmp_path / "memory", **none)
    cgroup(tmp_path / "memory" / "docker" / "x", **limits)
    (tmp_path / "unified").mkdir()
    membership = "9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/\n"
    where = str(tmp_path / "memory" / "docker" / "x" / "memory.limit_in_bytes")
    assert machine.cgroup_memory(tmp_path, membership) == [machine.Memory(5300, sys.maxsize, where)]
    both = {"memory__memsw__limit_in_bytes": 7000, "memory__memsw__usage_in_bytes": 1500}
    cgroup(tmp_path / "memory" / "docker" / "x", **both)
    assert machine.cgroup_memory(tmp_path, membership) == [machine.Memory(5300, 500, where)]


def test_in_a_container_the_limit_lies_in_the_root_whatever_the_path(tmp_path):
    cgroup(tmp_path, memory__max=6000, memory__current=1000, memory__stat=STAT2, memory__swap__max=0)
    for path in ("/", "/docker/0123", "/../../x"):
        (found,) = machine.cgroup_memory(tmp_path, f"0::{path}\n")
        assert found.available == 5330


def test_nothing_is_said_of_what_is_not_there(tmp_path):
    assert machine.cgroup_memory(tmp_path, "4:memory:/x\n0::/y\n") == []


def test_quotas_of_all_cgroups_above_count(tmp_path):
    cgroup(tmp_path / "a", cpu__max="250000 100000")
    cgroup(tmp_path / "a" / "b", cpu__max="max 100000")
    assert machine.cgroup_cpus(tmp_path, "0::/a/b\n") == [2.5]
    cgroup(tmp_path / "a" / "b", cpu__max="50000 100000")
    assert machine.cgroup_cpus(tmp_path, "0::/a/b\n") == [0.5, 2.5]


def test_quotas_of_version_1_lie_under_the_name_of_the_controllers(tmp_path):
    for name in ("cpu", "cpu,cpuacct"):
        cgroup(tmp_path / name / "docker", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
        cgroup(tmp_path / name, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert machine.cgroup_cpus(tmp_path, "3:cpuset:/\n2:cpu,cpuacct:/docker\n") == [1.5]
    (tmp_path / "cpu").rename(tmp_path / "was cpu")
    assert machine.cgroup_cpus(tmp_path, "2:cpu,cpuacct:/docker\n0::/\n") == [1.5]


@pytest.mark.parametrize(("quotas", "threads"), [([], 4), ([3.9, 8.0], 3), ([0.5], 1)])
def test_threads_are_as_many_as_quotas_and_affinity_allow(monkeypatch, quotas, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 8, 9, 10, 11})
    monkeypatch.setattr(machine, "_siblings", lambda cpu: f"{cpu % 8},{cpu % 8 + 8}")
    monkeypatch.setattr(machine, "cgroup_cpus", lambda root, membership: quotas)
    assert machine.cores() == threads
    assert machine.cores(logical=True) == (threads if quotas else 8)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
def test_one_core_of_several_is_one_thread_everywhere():
    """What is started in a process that may use a single core: `taskset -c 0`, `docker --cpuset-cpus 0`."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from luq_gguf.core import machine; from luq_gguf.cli import bench\n"
        "allowed = machine.describe().cores_allowed\n"
        "print(machine.cores(), machine.cores(logical=True), allowed, *bench._threads(None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"] * 4


def test_nothing_else_asks_how_many_cores_there_are():
    """But for what describes the machine, and shares of its time."""
    package = Path(machine.__file__).parents[1]
    allowed = {"core/machine.py", "llamacpp/llama_bench.py", "diagnostics/doctor.py"}
    asking = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "cpu_count" in path.read_text()}
    assert asking <= allowed
