"""Describes this machine and how busy it is: the conditions under which every speed is measured."""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import psutil

from luq_gguf.core.speeds import Machine

_FEATURES = re.compile(r"(sse4_2|avx\w*|f16c|fma|bmi2|amx_\w+|asimd\w*|i8mm|sve\w*|neon|bf16)$")


def cpu_name() -> str:
    """Return the CPU's model name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model", "cpu model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return the instruction sets that ggml's kernels ask for; empty where the system does not tell them."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return sorted(flag for flag in line.split(":", 1)[1].split() if _FEATURES.match(flag))
    return []


def cores(*, logical: bool = False) -> int:
    """Return how many threads this process can run at once: what llama.cpp runs best on, which is one for each core, or
    as many as the system runs at all (`logical`, with hyper-threads).

    Only cores of the process's CPU affinity count (taskset, cpusets, Slurm), and never more than the time that the CPU
    quotas of its cgroups allow (docker --cpus): llama.cpp's threads wait for each other in a busy loop, so that one
    thread too many costs more than it does.
    """
    count = _allowed_cores(logical=logical)
    with suppress(OSError):  # not Linux
        quotas = cgroup_cpus(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text())
        count = min([count, *map(int, quotas)])
    return max(1, count)


def _allowed_cores(*, logical: bool) -> int:
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return psutil.cpu_count(logical=logical) or os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    return len(allowed) if logical else len({_siblings(cpu) for cpu in allowed})


def _siblings(cpu: int) -> str:
    """The hyper-threads of a CPU's core, as the system lists them; the CPU itself where it does not."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    with suppress(OSError):
        return (topology / "thread_siblings_list").read_text().strip()
    return str(cpu)


@dataclass(frozen=True)
class Memory:
    """What this process can still use: bytes without swapping, and bytes of swap in addition. `limit` is the file of
    the cgroup that leaves less than the machine does, empty where none does."""

    available: int
    swap: int
    limit: str = ""


def available_bytes() -> int:
    """Return the bytes of memory that this process can use without swapping, on this machine and in its cgroups."""
    return memory().available


def memory() -> Memory:
    """Return the least memory that the machine and the cgroups of this process leave it."""
    levels = [Memory(int(psutil.virtual_memory().available), int(psutil.swap_memory().free))]
    with suppress(OSError):  # not Linux
        levels += cgroup_memory(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text())
    least = min(levels, key=lambda level: level.available)
    return Memory(least.available, min(level.swap for level in levels), least.limit)


def cgroup_memory(root: Path, membership: str) -> list[Memory]:
    """Return what each cgroup with a memory limit leaves, from the process's own up to the root's; for both versions of
    cgroups, also next to each other. `root` is where they are mounted, `membership` the text of /proc/self/cgroup.

    Cached files count as used there and are dropped when memory is needed, so they count as free here. In a
    container without a namespace of its own the path is the host's, and the container's limit is that of the root.
    """
    levels = []
    for folder, version in _cgroups(root, membership, "memory"):
        with suppress(OSError, ValueError):  # a file that is not there, or no limit
            levels.append(_limit_v2(folder) if version == 2 else _limit_v1(folder))
    return levels


def cgroup_cpus(root: Path, membership: str) -> list[float]:
    """Return how many CPUs each cgroup with a quota allows; arguments and levels as of `cgroup_memory`."""
    quotas = []
    for folder, version in _cgroups(root, membership, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):  # a file that is not there, or no quota
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return quotas


def _cgroups(root: Path, membership: str, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders that have a controller's files, from the process's own cgroup up, and the version of each."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version, mount = 2, root / "unified" if (root / "unified").is_dir() else root
        elif controller in controllers.split(","):
            version, mount = 1, root / (controller if (root / controller).is_dir() else controllers)
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents) if ".." not in group.parts else (PurePosixPath(),):
            yield mount / level, version


def _limit_v2(folder: Path) -> Memory:
    left = _number(folder / "memory.max") - _number(folder / "memory.current")
    left += _of_stat(folder, "inactive_file", "active_file", "slab_reclaimable")
    swap = sys.maxsize
    with suppress(OSError, ValueError):
        swap = _number(folder / "memory.swap.max") - _number(folder / "memory.swap.current")
    return Memory(max(0, left), max(0, swap), str(folder / "memory.max"))


def _limit_v1(folder: Path) -> Memory:
    left = _number(folder / "memory.limit_in_bytes") - _number(folder / "memory.usage_in_bytes")
    swap = sys.maxsize
    with suppress(OSError, ValueError):  # not every kernel counts swap; where one does, the limit is of both together
        swap = _number(folder / "memory.memsw.limit_in_bytes") - _number(folder / "memory.memsw.usage_in_bytes") - left
    left += _of_stat(folder, "total_inactive_file", "total_active_file")
    return Memory(max(0, left), max(0, swap), str(folder / "memory.limit_in_bytes"))


def _number(path: Path) -> int:
    """Raises ValueError for what stands for no limit: "max" in version 2, about 2^63 in version 1."""
    value = int(path.read_text())
    if value > 2**62:
        raise ValueError("no limit")
    return value


def _of_stat(folder: Path, *names: str) -> int:
    rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return sum(int(value) for name, value in rows if name in names)


def governor() -> str | None:
    """Return the frequency governor of the first core, or None where it cannot be read."""
    with suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    return None


def describe() -> Machine:
    """Return CPU, cores of the machine and those that this process may use, memory, governor and system, as bench.json
    has them."""
    return Machine(
        cpu=cpu_name(),
        features=tuple(cpu_features()),
        physical_cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        logical_cores=os.cpu_count(),
        cores_allowed=cores(logical=True),
        memory_bytes=int(psutil.virtual_memory().total),
        governor=governor(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def busy_seconds() -> float:
    """Return the core-seconds that all cores have been busy since boot, including time stolen by other guests."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def busy_share(seconds: float = 1.0) -> float:
    """Return the share of all cores' time that is in use now, measured for so many seconds."""
    return float(psutil.cpu_percent(interval=seconds)) / 100


def read_bandwidth(threads: int) -> float:
    """Return the bytes per second that so many threads together read from memory: the best of several dot products of
    arrays of 1 GiB in total, which is more than caches hold."""
    from threadpoolctl import threadpool_limits

    part = np.ones(2**28 // threads, np.float32)
    parts = [part, *(part.copy() for _ in range(threads - 1))]
    best = float("inf")
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(lambda array: float(np.dot(array, array)), parts))
            best = min(best, time.perf_counter() - started)
    return sum(array.nbytes for array in parts) / best


class PeakMemory:
    """Follows a process's peak resident memory until it is stopped.

    The figure that the system gives when the process has ended also counts what its parent used at the fork.
    """

    POLL_SECONDS = 0.01

    def __init__(self, pid: int) -> None:
        self.n_bytes, self._pid, self._ended = 0, pid, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.wait(self.POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        status = Path(f"/proc/{self._pid}/status")
        with suppress(OSError, psutil.Error):
            if not Path("/proc/self").exists():
                self.n_bytes = max(self.n_bytes, int(psutil.Process(self._pid).memory_info().rss))
                return
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM"):  # the last one holds: before it runs its own program it is a copy of us
                    self.n_bytes = int(line.split()[1]) * 1024

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
