#!/usr/bin/env python3
"""How far predicted speeds of plans lie from measured ones, on files of a geometry with random weights.

.venv/bin/python tests/benchmarks/speed_model.py qwen2.5-vl-7b [--turns 3]

Nine plans: none, a quarter, a half and all layers low, in IQ1_M and in Q2_K; and half in TQ2_0 and IQ2_XXS. Every file
is made, measured by llama-bench in turns with the others, and compared with the prediction from rates of types. Those
are measured first where they are not known; nothing is fitted to these files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from luq_gguf.benchmarking import synthetic_model, type_benchmark
from luq_gguf.core import machine
from luq_gguf.core.reporter import Reporter
from luq_gguf.llamacpp import llama_bench, shape_file, tools
from luq_gguf.method import speed_model, two_type_plan

GENERATE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    llama, threads, prompt = tools.find(), machine.cores(), type_benchmark.PROMPT
    with tempfile.TemporaryDirectory(prefix="luq-speed-", dir=".") as work:
        made: dict[str, tuple[Path, speed_model.Speed]] = {}
        source = synthetic_model.synthetic_outline(args.shape, Path(work) / "shape", llama)
        for low in ("IQ1_M", "Q2_K", "TQ2_0", "IQ2_XXS"):
            geometry = synthetic_model.geometry(source, llama, low, "Q4_K_M")
            n = geometry.tensors.n_layers
            needed = sorted(speed_model.types_of(geometry.tensors))
            table = type_benchmark.measured_rates(geometry, threads, Reporter(info=print), needed)
            for count in (0, n // 4, n // 2, n) if low in ("IQ1_M", "Q2_K") else (n // 2,):
                if count == 0 and low != "IQ1_M":
                    continue
                types = two_type_plan.tensor_types(
                    geometry.tensors, synthetic_model.spread_layers(n, count) if count else ()
                )
                path = Path(work) / f"{low}-{count}.gguf"
                shape_file.write(path, geometry.source, types)
                predicted = speed_model.predict(table, geometry.tensors, types, geometry.active_experts)
                made[f"{count} of {n} in {low}"] = path, predicted
        decode: dict[str, list[float]] = {name: [] for name in made}
        prefill: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(args.turns):
            for name, (path, _predicted) in made.items():
                run = llama_bench.run(llama, path, llama_bench.Workload((threads,), (prompt,), GENERATE))
                decode[name] += run.tps[threads, 0, GENERATE]
                prefill[name] += run.tps[threads, prompt, 0]
    print(f"{args.shape}, {machine.cpu_name()}, {threads} threads, {args.turns} turns, medians; constants: "
          f"{table.decode_constant * 1e3:.2f} ms decode, {table.prefill_constant * 1e3:.3f} ms prefill")  # fmt: skip
    print("| low layers | decode t/s | predicted | error | prefill t/s | predicted | error |")
    print("|---|---|---|---|---|---|---|")
    first = next(iter(made))
    for name, (_, predicted) in made.items():
        cells = []
        for measured, told in ((decode, predicted.decode_tps), (prefill, predicted.prefill_tps)):
            found = median(measured[name])
            cells += [f"{found:.2f}", f"{told:.2f}", f"{told / found - 1:+.1%}"]
        print("| " + " | ".join([name, *cells]) + " |")
    base = made[first][1].decode_tps, median(decode[first])
    worst = max(abs(p.decode_tps / base[0] / (median(decode[n]) / base[1]) - 1) for n, (_, p) in made.items())
    print(f"largest error of the decode ratio to Q4_K_M: {worst:.1%}")


if __name__ == "__main__":
    main()
