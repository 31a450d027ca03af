#!/usr/bin/env python3
"""How a little model's accuracy falls with every layer more in the low type: whether it is a usable instrument.

    scripts/demo && .venv/bin/python scripts/low_layer_curve.py out/demo/run [--questions 500]

Uses the demo's run folder (its 16-bit GGUF is kept) and changes its plan; run the demo again to restore it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from luq_gguf import demo, easy_vqa, pipeline
from luq_gguf.artefacts import read_profile
from luq_gguf.planner import format_size
from luq_gguf.ranking import RANKINGS
from luq_gguf.values import Budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--rank", choices=RANKINGS, default="entropy")
    args = parser.parse_args()
    pool = easy_vqa.questions("test")
    asked = tuple(pool[i] for i in np.random.default_rng(0).permutation(len(pool))[: args.questions])
    pictures = demo.write_pictures(args.run_dir.parent / "easy-vqa" / "test", asked)
    n_layers = len(read_profile(args.run_dir / "profile.json").layers)
    for count in range(n_layers + 1):
        budget = Budget(low_layers=count)
        plan = pipeline.plan(args.run_dir, budget, low="IQ1_M", high="Q4_K_M", rule=args.rank, seed=0)
        made = pipeline.quantize_plan(args.run_dir, keep_f16=True)
        found = demo.measure(f"LUQ-{count}", made.model.path, made.mmproj, asked, pictures, None, lambda *_: None)
        low, high = found.interval
        size = format_size(found.n_bytes)
        print(
            f"{count:3} low  {size:>9}  {found.accuracy:.1%} ({low:.1%} to {high:.1%})  {plan.low_layers}", flush=True
        )
        made.model.path.unlink()


if __name__ == "__main__":
    main()
