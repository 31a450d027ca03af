"""Measures how many test questions of each split a checkpoint answers, in transformers: bfloat16, greedy decoding."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from exact_bfloat16 import ExactBfloat16
from instrument import draw
from instrument.draw import Question
from luq_gguf.hf.devices import has_fast_bfloat16
from luq_gguf.hf.processor import load_processor

_AT_ONCE = 50
_LONGEST = 16  # tokens of an answer: nine letters, and what ends it


def accuracy(folder: Path, n: int, seed: int, splits: Sequence[str], device: torch.device) -> dict[str, float]:
    """Return the share of right answers to n test questions of each split, through the checkpoint's own processor."""
    from transformers import AutoModelForImageTextToText

    processor = load_processor(folder)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    scores = {}
    with contextlib.nullcontext() if has_fast_bfloat16(device) else ExactBfloat16():
        for split in splits:
            questions = list(draw.for_tests(split, n, seed))
            said = [
                answer
                for at in range(0, n, _AT_ONCE)
                for answer in answers(model, processor, questions[at : at + _AT_ONCE])
            ]
            scores[split] = sum(a == q.answer for a, q in zip(said, questions, strict=True)) / n
            print(f"{split}: {scores[split]:.3f}", flush=True)
    return scores


@torch.no_grad()
def answers(model: Any, processor: Any, questions: Sequence[Question]) -> list[str]:
    """Return what the model says to each question."""
    turns = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
        for question in questions
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    pictures = [[question.picture] for question in questions]
    inputs = processor(images=pictures, text=text, padding=True, return_tensors="pt").to(model.device)
    out = model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in said]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="the checkpoint to measure")
    parser.add_argument("--questions", type=int, default=250, help="test questions of each split (default: 250)")
    parser.add_argument("--splits", nargs="+", choices=draw.NAMES, default=draw.NAMES, help="only these splits")
    parser.add_argument(
        "--seed", type=int, default=draw.TEST_SEED, help=f"of the questions (default: {draw.TEST_SEED})"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores = accuracy(args.checkpoint, args.questions, args.seed, args.splits, device)
    print(f"all: {sum(scores.values()) / len(scores):.3f} of {args.questions * len(scores)} questions")
    if args.json:
        args.json.write_text(json.dumps({"questions_a_split": args.questions, "scores": scores}, indent=1) + "\n")
