#!/usr/bin/env python3
"""Whether a file with random weights is as fast as the trained model's file of the same types and shapes.

.venv/bin/luq-gguf demo --model qwen2.5-vl
.venv/bin/python tests/benchmarks/shape_twin.py out/demo/qwen2.5-vl [--turns 30] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from luq_gguf.llamacpp import llama_bench, shape_file, tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method.metrics import intervals

PROMPT, GENERATE = 256, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    llama, source = tools.find(), reader.read(args.run_dir / ".work" / "skeleton.gguf")
    for real in sorted(p for p in args.run_dir.glob("*.gguf") if not p.name.startswith(("mmproj", "imatrix"))):
        with tempfile.TemporaryDirectory() as work:
            twin = shape_file.write(Path(work) / "twin.gguf", source, reader.read(real).types).path
            found: dict[Path, list[tuple[float, float]]] = {real: [], twin: []}
            for turn in range(args.turns):
                for path in (real, twin) if turn % 2 else (twin, real):
                    run = llama_bench.run(llama, path, llama_bench.Workload((args.threads,), (PROMPT,), GENERATE))
                    speeds = run.tps[args.threads, 0, GENERATE][0], run.tps[args.threads, PROMPT, 0][0]
                    found[path].append(speeds)
        for column, what in enumerate(("decode", "prefill")):
            one, other = (np.array([speeds[column] for speeds in found[path]]) for path in (real, twin))
            medians = np.median(other) / np.median(one)
            ratio = intervals.paired_ratio(one, other)
            told = intervals.format_ratio(ratio)
            print(f"{real.name}: {what} of twin / real: ratio of medians {medians:.3f}, paired {told}")


if __name__ == "__main__":
    main()
