#!/usr/bin/env python3
"""Measure what each additional low layer does to a tiny model, to see whether the model is usable for measurements.

    scripts/demo && .venv/bin/python scripts/low_layer_curve.py out/demo/qwen2.5-vl [--questions 200]

For 0 to all low layers, prints the size, the accuracy, and the KL divergence from the 16-bit file on the text tokens of
questions and answers, given their images (mean, 90th percentile, same top token). Uses the demo's run folder, in which
the 16-bit GGUF is kept, and changes its plan; run the demo again to restore it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics.kld import kl_divergence, same_top
from luq_gguf.method.orders import UNMEASURED
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.run.serialization import read_profile
from luq_gguf.workflows import demo, easy_vqa, pipeline


def scores(model: Path, mmproj: Path, asked, pictures) -> list[np.ndarray]:
    """Return log-probabilities after every text token of each question with its correct answer."""
    with LlamaClient(model, mmproj, n_ctx=512) as runner:
        return [runner.score(q.text, pictures[q.image], answer=q.answer).log_probabilities for q in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rank", choices=UNMEASURED, default="entropy")
    args = parser.parse_args()
    pool = easy_vqa.questions("test")
    asked = tuple(pool[i] for i in np.random.default_rng(0).permutation(len(pool))[: args.questions])
    pictures = demo.write_pictures(args.run_dir.parent / "easy-vqa" / "test", asked)
    n_layers = len(read_profile(args.run_dir / "profile.json").layers)
    f16 = next(p for p in args.run_dir.glob("*-F16.gguf") if not p.name.startswith("mmproj-"))
    reference = scores(f16, next(args.run_dir.glob("mmproj-*.gguf")), asked, pictures)
    print("low layers      size   accuracy (95% interval)      KLD mean     p90  same top  which", flush=True)
    for count in range(n_layers + 1):
        budget = Budget(low_layers=count)
        plan = pipeline.plan(args.run_dir, PlanRequest(budget, args.rank))
        made = pipeline.quantize_plan(args.run_dir, RunOptions(keep_f16=True))
        found = demo.measure(f"LUQ-{count}", made.model.path, made.mmproj, asked, pictures, None, lambda *_: None)
        low, high = found.interval
        ours = scores(made.model.path, made.mmproj, asked, pictures)
        kld = np.concatenate([kl_divergence(p, q) for p, q in zip(reference, ours, strict=True)])
        top = np.concatenate([same_top(p, q) for p, q in zip(reference, ours, strict=True)])
        print(
            f"{count:10} {format_size(found.n_bytes):>9}   {found.accuracy:6.1%} ({low:6.1%} to {high:6.1%})   "
            f"{kld.mean():8.5f} {np.quantile(kld, 0.9):7.4f} {top.mean():9.2%}  {list(plan.low_layers)}",
            flush=True,
        )
        made.model.path.unlink()


if __name__ == "__main__":
    main()
