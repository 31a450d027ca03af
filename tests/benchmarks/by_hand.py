#!/usr/bin/env python3
"""Whether `luq-gguf bench` tells the speeds that llama-bench tells a person who calls it: both in turns, same files.

.venv/bin/python tests/benchmarks/by_hand.py [qwen2.5-vl-3b] [--turns 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from luq_gguf.benchmarking import synthetic_model
from luq_gguf.llamacpp import shape_file, tools
from luq_gguf.method import two_type_plan
from luq_gguf.method.metrics import intervals

PROMPT, GENERATE = "64", "32"


def by_hand(bench: Path, path: Path, threads: str) -> tuple[float, float]:
    command = [bench, "-m", path, "-t", threads, "-p", PROMPT, "-n", GENERATE, "-r", "1", "-o", "jsonl"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(row["avg_ts"] for row in sorted(rows, key=lambda row: row["n_prompt"]))  # decode, prefill


def by_us(folder: Path, files: list[Path], threads: str) -> list[tuple[float, float]]:
    how = ("--threads", threads, "--prompt", PROMPT, "--generate", GENERATE, "--repetitions", "1")
    command = [sys.executable, "-m", "luq_gguf", "bench", *files, *how, "--out", folder / "bench.json", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["rows"]
    return [(row["decode_tps"]["median"], row["prefill_tps"]["median"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", default="qwen2.5-vl-3b")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    llama = tools.find()
    with tempfile.TemporaryDirectory(prefix="luq-by-hand-") as work:
        folder = Path(work)
        geometry = synthetic_model.geometry(
            synthetic_model.synthetic_outline(args.shape, folder / "shape", llama), llama, "IQ1_M", "Q4_K_M"
        )
        n_layers = geometry.tensors.n_layers
        choices = {"Q4_K_M": (), "half-low": synthetic_model.spread_layers(n_layers, n_layers // 2)}
        for name, low in choices.items():
            types = two_type_plan.tensor_types(geometry.tensors, low)
            shape_file.write(folder / f"{args.shape}-{name}.gguf", geometry.source, types)
        files = sorted(folder.glob("*.gguf"))
        ours, theirs = [], []
        for turn in range(args.turns):
            for ask in (1, 0) if turn % 2 else (0, 1):
                if ask:
                    ours.append(by_us(folder, files, args.threads))
                else:
                    theirs.append([by_hand(llama.tool("llama-bench"), path, args.threads) for path in files])
    one, other = np.array(theirs), np.array(ours)
    for i, path in enumerate(files):
        for j, what in enumerate(("decode", "prefill")):
            medians = np.median(other[:, i, j]) / np.median(one[:, i, j])
            told = intervals.format_ratio(intervals.paired_ratio(one[:, i, j], other[:, i, j]))
            noise = one[:, i, j].std(ddof=1) / one[:, i, j].mean()
            print(f"{path.stem}: {what}, ours / by hand: medians {medians:.3f}, paired {told}; by hand ±{noise:.1%}")


if __name__ == "__main__":
    main()
