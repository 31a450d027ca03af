"""Writes N questions of each split as pictures and a .jsonl, as `luq-gguf eval --data` and `--calib` read them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from instrument import draw
from luq_gguf.core.atomic import write_text

KINDS = {
    "test": (draw.for_tests, draw.TEST_SEED),
    "train": (draw.for_calibration, draw.CALIBRATION_SEED),
}


def write_set(folder: Path, kind: str, n: int, seed: int | None = None, splits: tuple[str, ...] = draw.NAMES) -> Path:
    """Write `<kind>.jsonl` (image, prompt, answers, split) with its pictures beside it, and return its path. `kind` is
    "test" or "train"; the same seed gives the same files."""
    questions, usual = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for split in splits:
        for i, question in enumerate(questions(split, n, usual if seed is None else seed)):
            name = f"{split}-{i:04d}.png"
            Image.fromarray(question.picture).save(folder / name)
            row = {"image": name, "prompt": question.text, "answers": [question.answer], "split": split}
            lines.append(json.dumps(row) + "\n")
    path = folder / f"{kind}.jsonl"
    write_text(path, "".join(lines))
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="the folder to write pictures and the .jsonl to")
    parser.add_argument(
        "kind", choices=KINDS, help="test: questions never trained on; train: others like those trained on"
    )
    parser.add_argument("n", type=int, help="questions of each split")
    parser.add_argument("--splits", nargs="+", choices=draw.NAMES, default=draw.NAMES, help="only these splits")
    parser.add_argument(
        "--seed", type=int, help=f"another seed than {draw.TEST_SEED} for test and {draw.CALIBRATION_SEED} for train"
    )


def run(args: argparse.Namespace) -> None:
    path = write_set(args.out, args.kind, args.n, args.seed, tuple(args.splits))
    print(f"{args.n * len(args.splits)} questions in {path}")
