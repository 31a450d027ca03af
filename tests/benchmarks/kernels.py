#!/usr/bin/env python3
"""What the kernels do for whole models: stock llama.cpp and every path of them, in turns, on files of a geometry.

.venv/bin/python tests/benchmarks/kernels.py qwen2.5-vl-7b --low-layers 12,28 --threads 1,2 --prompt 16,64,512

Ratios are to Q4_K_M of the same round: median, and in brackets the smallest and the largest. Memory is the process's at
its peak in llama-bench; and, with --loads, how long loading takes and what a loaded model takes. Linux only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from luq_gguf.benchmarking import synthetic_model
from luq_gguf.core import machine
from luq_gguf.kernels import build
from luq_gguf.llamacpp import llama_bench, shape_file, tools
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method import two_type_plan

GIB = 2**30


@dataclass
class Arm:
    """A file with a path of the kernels, or without them; and what was measured, round by round."""

    label: str
    file: Path
    path: str | None = None
    repack: bool = True
    tps: dict[tuple[int, int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    peak: int = 0
    loads: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, resident bytes, of them a file's

    def select(self) -> Path | None:
        """Set LUQ_KERNELS for what is started next; the library, where it is wanted."""
        os.environ["LUQ_KERNELS"] = self.path or "auto"
        return build.library() if self.path else None


def make_arms(args: argparse.Namespace, folder: Path) -> list[Arm]:
    """Q4_K_M with and without llama.cpp's repacking, then each LUQ file by stock llama.cpp and by every path."""
    llama, arms = tools.find(), list[Arm]()
    source = synthetic_model.synthetic_outline(args.shape, folder / "shape", llama)
    for low in args.low.split(","):
        geometry = synthetic_model.geometry(source, llama, low, "Q4_K_M")
        n = geometry.tensors.n_layers
        if not arms:
            path = shape_file.write(
                folder / "Q4_K_M.gguf", geometry.source, two_type_plan.tensor_types(geometry.tensors, ())
            ).path
            arms += [Arm("Q4_K_M", path), Arm("Q4_K_M, --repack 0", path, repack=False)]
        for count in map(int, args.low_layers.split(",")):
            types = two_type_plan.tensor_types(geometry.tensors, synthetic_model.spread_layers(n, count))
            path = shape_file.write(folder / f"{low}-{count}.gguf", geometry.source, types).path
            name = f"{low} in {count} of {n}"
            arms += [Arm(f"{name}, stock", path)]
            arms += [Arm(f"{name}, {kernels}", path, kernels) for kernels in args.paths.split(",")]
    return arms


def run_rounds(args: argparse.Namespace, arms: list[Arm]) -> float:
    """The largest share of the machine that other processes took."""
    threads, prompts = (tuple(int(n) for n in text.split(",") if n) for text in (args.threads, args.prompt))
    workload = llama_bench.Workload(threads, prompts, args.generate)
    others = 0.0
    for round_ in range(args.rounds):
        for i in range(len(arms)):
            arm = arms[(i + round_) % len(arms)]
            found = llama_bench.run(tools.find(), arm.file, workload, kernels=arm.select(), repack=arm.repack)
            for key, samples in found.tps.items():
                arm.tps[key] += samples
            arm.peak, others = max(arm.peak, found.peak_rss_bytes), max(others, found.others_share)
        print(f"round {round_ + 1}: others {others:.1%}", flush=True)
        for arm in arms:
            told = {key: round(samples[-1] / arms[0].tps[key][-1], 3) for key, samples in arm.tps.items()}
            print(f"  {arm.label}: {told}", flush=True)
    return others


def load(arm: Arm) -> None:
    """Load the file in a process of libllama and look at its memory before anything is computed."""
    started = time.monotonic()
    with LlamaClient(arm.file, threads=2, n_ctx=512, kernels=arm.select()) as runner:
        seconds = time.monotonic() - started
        told = Path(f"/proc/{runner.pid}/status").read_text().splitlines()
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in told if line.startswith("Rss")}
        sizes |= {line.split(":")[0]: 1024 * int(line.split()[1]) for line in told if line.startswith("VmRSS")}
        arm.loads.append((seconds, sizes["VmRSS"], sizes["RssFile"]))


def print_tables(args: argparse.Namespace, arms: list[Arm], others: float) -> None:
    print(f"\n{args.shape}, {machine.cpu_name()}, {args.rounds} rounds, others at most {others:.1%}")
    if args.rounds:
        print_speeds(arms)
    if args.loads:
        print("\n| file | load time | resident | of it, mapped file |\n|---|---|---|---|")
    for arm in arms:
        if arm.loads:
            seconds, resident, mapped = (median(values) for values in zip(*arm.loads, strict=True))
            print(f"| {arm.label} | {seconds:.1f} s | {resident / GIB:.2f} GiB | {mapped / GIB:.2f} GiB |")


def print_speeds(arms: list[Arm]) -> None:
    keys = list(arms[0].tps)
    heads = [f"decode, {t} threads" if g else f"prefill of {p}, {t} threads" for t, p, g in keys]
    print("| file | " + " | ".join([*heads, "peak memory"]) + " |\n" + "|---" * (len(keys) + 2) + "|")
    for arm in arms:
        cells = []
        for key in keys:
            ratios = [one / base for one, base in zip(arm.tps[key], arms[0].tps[key], strict=True)]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {arm.label} | " + " | ".join([*cells, f"{arm.peak / GIB:.2f} GiB"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("--low-layers", default="12")
    parser.add_argument("--low", default="IQ1_M")
    parser.add_argument("--paths", default="auto", help="of LUQ_KERNELS, such as avx512,avxvnni,avx512vl,avx2")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--prompt", default="64")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=0)
    parser.add_argument("--folder", default=".", type=Path, help="the files lie there meanwhile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luq-kernels-", dir=args.folder) as work:
        arms = make_arms(args, Path(work))
        others = run_rounds(args, arms)
        loaded = [arm for arm in arms if arm.repack]
        for turn in range(args.loads):
            for i in range(len(loaded)):  # who goes first finds memory that nothing has touched for longest
                load(loaded[(i + turn) % len(loaded)])
        print_tables(args, arms, others)


if __name__ == "__main__":
    main()
