#!/usr/bin/env python3
"""Compare files of equal size: llama-quantize's own, LUQ's, greedy's and the best plan's, on questions that no plan has
seen.

.venv/bin/python scripts/equal_bytes.py RUN --calib train.jsonl --data test.jsonl [--sizes Q2_K,IQ3_XXS,...]

RUN is a folder that `luq-gguf profile` has filled, and plans are searched with the questions of --calib. llama-quantize
writes every file, and its KL divergence from the 16-bit file is measured; ratios to the uniform file are paired by
question (95% intervals). On a tiny model, one size takes about two minutes. Prints a table and writes
RUN/equal-bytes.json.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget, Plan, RunOptions
from luq_gguf.core.units import format_size
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.method.metrics import intervals
from luq_gguf.planning import stage as planning_stage
from luq_gguf.planning import variants
from luq_gguf.planning.meter import make_meter
from luq_gguf.planning.mixed_precision import BestRequest
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session

SIZES = "Q2_K,IQ3_XXS,Q3_K_S,Q3_K_M,Q4_K_S"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--samples", type=int, help="how many questions of --data, drawn at random")
    args = parser.parse_args()
    rows = []
    with RunFolder(args.run_dir) as run:
        profile = serialization.read_profile(run.file("profile.json"))
        session = open_session(run, run.read()["model"], RunOptions(allow_fallback=True)).with_dataset(profile)
        f16 = quantization_stage.make_f16(session)
        data = QuestionSet(args.data, samples=args.samples).read(f16, run.work / "eval" / "images")
        reference = EvalTarget(f16, quantization_stage.make_mmproj(session), max_tokens=QuestionSet.max_tokens)
        seen = QuestionSet(args.calib, samples=planning_stage.SEARCHED)
        meter = make_meter(session, seen)()

        def unseen(plan: Plan) -> list[np.ndarray]:
            path, scratch = run.work / "equal-bytes.gguf", run.work / "equal-bytes"
            quantization_stage.quantize_plan(session, plan, path)
            found = evaluation.evaluate(replace(reference, model=path), reference, data, run.work, scratch=scratch)
            path.unlink()
            shutil.rmtree(scratch)
            return [case.kld for case in found.cases if case.kld is not None]

        def planned(budget: Budget, rule: str, best: BestRequest | None) -> tuple[Plan | None, float]:
            started = time.monotonic()
            request = PlanRequest(budget, rule, 0, best, seen)
            try:
                plan = planning_stage.make(session, profile, planning_stage.prepare(session, request))
            except BudgetError:  # LUQ cannot make a file this small
                return None, 0.0
            return plan, time.monotonic() - started

        for ftype in args.sizes.split(","):
            uniform = variants.uniform_plan(session.spec, ftype)
            budget, stock = Budget(n_bytes=uniform.predicted_file_bytes), unseen(uniform)
            asked = {
                "lowest entropy first": ("entropy", None),
                "greedy": ("greedy", None),
                "best, per layer": ("entropy", BestRequest()),
                "best, per tensor": ("entropy", BestRequest(by_tensor=True)),
            }
            told = [(f"uniform {ftype}", uniform, stock, 0.0)]
            for name, (rule, best) in asked.items():
                plan, seconds = planned(budget, rule, best)
                if plan:
                    told.append((name, plan, unseen(plan), seconds))
            for name, plan, found, seconds in told:
                ratio = intervals.ratio_of_means(stock, found)
                mean, seen_mean = float(np.concatenate(found).mean()), plan.measured_kld and plan.measured_kld.mean
                rows.append(
                    {"size": ftype, "plan": name, "file_bytes": plan.predicted_file_bytes, "kld": mean}
                    | {"ratio": ratio.to_json(), "kld_seen": seen_mean, "seconds": seconds}
                    | {"predicted": plan.predicted_kld and plan.predicted_kld.value}
                )
                print(
                    f"| {name} | {format_size(plan.predicted_file_bytes)} | {mean:.3g} "
                    f"| {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | {seconds:.0f} s |",
                    flush=True,
                )
        serialization.write_json(
            run.file("equal-bytes.json"), {"rows": rows, "conditions": meter.conditions().to_json()}
        )


if __name__ == "__main__":
    main()
