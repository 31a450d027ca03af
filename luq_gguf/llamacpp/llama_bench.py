"""llama-bench: one run of one file, with its samples, its peak memory, and what else the cores did meanwhile."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from luq_gguf.core import interrupts, machine
from luq_gguf.core.errors import RunnerError
from luq_gguf.llamacpp import child
from luq_gguf.llamacpp.tools import LlamaCpp

PLUGIN = "GGML_BACKEND_PATH"  # a library that llama.cpp's tools load beside their own backends
PLUGIN_NAME = "LUQ"  # what our own kernels are called in llama-bench's list of backends


@dataclass(frozen=True)
class Run:
    """What one call of llama-bench measured.

    `tps`: tokens/s by (threads, prompt tokens read or 0, tokens written or 0), a sample for each repetition;
    `others_share`: the share of all cores' time that other processes took; `build`: what it says of its own build.
    """

    tps: Mapping[tuple[int, int, int], tuple[float, ...]]
    peak_rss_bytes: int
    others_share: float
    build: Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """What is measured of a file: prefill of prompts of each length and decode of `n_generate` tokens, with each number
    of threads, so often; with so many layers on a GPU (None: as llama-bench decides, which is none without one)."""

    threads: tuple[int, ...]
    prompts: tuple[int, ...]
    n_generate: int
    repetitions: int = 1
    gpu_layers: int | None = None


def run(llama: LlamaCpp, model: Path, workload: Workload, *, kernels: Path | None = None, repack: bool = True) -> Run:
    """Load a file once and measure all of a workload. If a plugin of kernels is given, llama-bench must have loaded it;
    `repack` False turns off llama.cpp's own repacking.

    llama-bench warms up before each measurement by itself. Raises RunnerError with its words where it fails.
    """
    command = [str(llama.tool("llama-bench")), "-m", str(model), "-o", "jsonl"]
    command += ["-r", str(workload.repetitions), "-t", ",".join(map(str, workload.threads))]
    command += ["-p", ",".join(map(str, workload.prompts)) or "0", "-n", str(workload.n_generate)]
    command += [] if workload.gpu_layers is None else ["-ngl", str(workload.gpu_layers)]
    command += [] if repack else ["--repack", "0"]
    started, busy = time.monotonic(), machine.busy_seconds()
    environment = {name: value for name, value in os.environ.items() if name != PLUGIN}
    environment |= {PLUGIN: str(kernels)} if kernels else {}
    with tempfile.TemporaryFile("w+") as errors:
        with child.started(command, environment, stdout=PIPE, stderr=errors) as bench:
            watch = machine.PeakMemory(bench.pid)
            try:
                assert bench.stdout
                rows = [json.loads(line) for line in bench.stdout if line.startswith("{")]
                _, status, usage = os.wait4(bench.pid, 0)  # with the time that this child alone has used
                bench.returncode = os.waitstatus_to_exitcode(status)
                interrupts.check()
            finally:
                watch.stop()
        if bench.returncode or not rows:
            errors.seek(0)
            words = " ".join(errors.read().split()[-40:])
            how = f"llama-bench {child.ended(bench.returncode)} on {model.name}{': ' * bool(words)}{words}"
            raise child.failed(RunnerError, bench.returncode, how, words)
        if kernels and PLUGIN_NAME not in str(rows[0]["backends"]).split(","):
            errors.seek(0)
            refused = [line.strip() for line in errors if line.startswith("luq kernels")]
            raise RunnerError(f"llama-bench did not load {kernels.name}. {' '.join(refused)}", "Leave --kernels out.")
    elapsed = time.monotonic() - started
    others = machine.busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    samples = {}
    for row in rows:
        samples[int(row["n_threads"]), int(row["n_prompt"]), int(row["n_gen"])] = tuple(map(float, row["samples_ts"]))
    build = {
        key: rows[0][key]
        for key in ("build_commit", "build_number", "cpu_info", "backends", "gpu_info", "n_gpu_layers")
    }
    share = max(0.0, others) / (elapsed * (os.cpu_count() or 1))
    return Run(samples, watch.n_bytes, share, build)
