#!/usr/bin/env python3
"""Compare both values of --pixels: calibrate on images that are not square as the processor makes them and as llama.cpp
does, and measure the files that come of it.

    .venv/bin/python scripts/pixels_study.py out/pixels [--models tiny-qwen2.5-vl tiny-llava-1.5] [--seeds 0 1 2]

For each tiny model and seed (of the calibration questions, the tokens that are kept, and K-means) both values make a
LUQ file and a Q2_K file. Their mean KL divergence from the 16-bit file is measured on easy-VQA's test questions with
the images as they are, on which llama.cpp adds bars, and with fitted ones. Prints a table for docs/findings.md, and
writes it and all figures into the folder. What is finished there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from luq_gguf.core.calibration_set import DEPLOYED, PROCESSOR, CalibrationSet
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.evaluation.questions import QuestionSet
from luq_gguf.planning.stage import PlanRequest
from luq_gguf.run.preflight import safe_name
from luq_gguf.workflows import easy_vqa, evaluate
from luq_gguf.workflows.convert import convert

MODELS = Path(__file__).resolve().parents[1] / "tests" / "models"
NAMES = ("tiny-qwen2.5-vl", "tiny-llava-1.5")
KEEP = RunOptions(keep_f16=True)


@dataclass(frozen=True)
class Figure:
    """A file's mean KL divergence in nats: what it was calibrated on, and whether the images were fitted."""

    model: str
    file: str
    seed: int
    pixels: str
    fitted: bool
    kld: float


def files(args: argparse.Namespace, name: str, seed: int, pixels: str) -> Iterator[tuple[str, Path, Path]]:
    """Yield label, file and 16-bit file of the LUQ file and of the Q2_K file; each file is there until the next."""
    checkpoint, out = MODELS / name, args.out / f"{name}-{seed}-{pixels}"
    source = args.out / f"train-{seed}"
    calib = easy_vqa.write_set(source, "train", args.samples, seed, size=args.size)
    calibration = CalibrationSet(calib, samples=args.samples, seed=seed, pixels=pixels)
    plans = {
        f"LUQ-{args.low_layers} {args.low}": PlanRequest(Budget(low_layers=args.low_layers), seed=seed, low=args.low),
        "Q2_K": PlanRequest(Budget(low_layers=0), seed=seed, low=args.low, high="Q2_K"),
    }
    for label, plan in plans.items():
        made = convert(str(checkpoint), out, plan, calibration, KEEP)
        yield label, made.model.path, out / f"{safe_name(name)}-F16.gguf"


def measure(args: argparse.Namespace, name: str, seed: int, questions: QuestionSet) -> Iterator[Figure]:
    """Yield the figures of a model and a seed."""
    for pixels in (PROCESSOR, DEPLOYED):
        for label, path, f16 in files(args, name, seed, pixels):
            for fitted in (False, True):
                result = evaluate.evaluate(path, f16, questions, fit_images=fitted)
                assert result.kld is not None
                yield Figure(name, label, seed, pixels, fitted, result.kld.mean)


def table(figures: Sequence[Figure]) -> str:
    """Return the rows of a table: the mean of the seeds, and of each seed the ratio of deployed to processor."""
    kld = {(f.model, f.file, f.fitted, f.pixels, f.seed): f.kld for f in figures}
    lines = [
        "| model | file | images | processor | deployed | deployed / processor, by seed |",
        "|---|---|---|---|---|---|",
    ]
    for model, label, fitted in dict.fromkeys((f.model, f.file, f.fitted) for f in figures):
        seeds = sorted({f.seed for f in figures if (f.model, f.file, f.fitted) == (model, label, fitted)})
        both = [[kld.get((model, label, fitted, pixels, seed)) for pixels in (PROCESSOR, DEPLOYED)] for seed in seeds]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if pairs:
            means = (statistics.mean(side) for side in zip(*pairs, strict=True))
            ratios = ", ".join(f"{deployed / processor:.2f}" for processor, deployed in pairs)
            shown = " | ".join(f"{mean:.3e}" for mean in means)
            lines.append(f"| {model} | {label} | {'fitted' if fitted else 'as they are'} | {shown} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=128, help="calibration samples, half of them with images")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--size", nargs=2, type=int, default=[150, 100], help="width and height of all images")
    parser.add_argument("--low-layers", type=int, default=6)
    parser.add_argument("--low", default="IQ1_M")
    args = parser.parse_args()
    args.size = tuple(args.size)
    test = easy_vqa.write_set(args.out / "test", "test", args.questions, size=args.size)
    questions = QuestionSet(test, max_tokens=4, n_ctx=1024)
    figures: list[Figure] = []
    for name in args.models:
        for seed in args.seeds:
            started = time.monotonic()
            for figure in measure(args, name, seed, questions):
                figures.append(figure)
                (args.out / "figures.json").write_text(json.dumps([asdict(each) for each in figures], indent=1))
            print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    (args.out / "table.md").write_text(table(figures) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
