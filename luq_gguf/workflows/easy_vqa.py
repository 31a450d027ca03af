"""easy-VQA, the data of the demo and of the tiny models: images of one coloured shape, and questions about them.

PyPI ``easy-vqa`` (MIT): 64 x 64 images, 38,575 train and 9,673 test questions, 13 answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from luq_gguf.core.errors import LuqError

SIDE = 112  # pixels; a multiple of Qwen2.5-VL's 28 that neither transformers nor llama.cpp resizes


@dataclass(frozen=True)
class Question:
    image: Path
    text: str
    answer: str


def installed_data() -> Path:
    """Return the data of the installed easy-vqa package. Raises LuqError where it is not installed."""
    try:
        import easy_vqa
    except ImportError:
        raise LuqError("The demo needs the easy-vqa package.", "Install it with pip install easy-vqa.") from None
    return Path(easy_vqa.__file__).parent / "data"


def questions(split: str, data: Path | None = None) -> list[Question]:
    """Return all questions of the "train" or the "test" split, of the installed package or of a folder like its
    data. Raises LuqError where the package is not installed."""
    folder = (data or installed_data()) / split
    rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return [Question(folder / "images" / f"{image}.png", text, answer) for text, answer, image in rows]


def load_image(path: Path, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Return the image in RGB, by default in the size that the models were trained with."""
    with Image.open(path) as picture:
        return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def write_set(
    folder: Path,
    split: str,
    count: int,
    seed: int = 0,
    data: Path | None = None,
    size: tuple[int, int] = (SIDE, SIDE),
) -> Path:
    """Write a .jsonl of so many random questions with their images, of this size, next to it, and return its path.
    `data` is as in `questions`."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = questions(split, data)
    chosen = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]
    lines = []
    for question in chosen:
        picture = folder / f"{question.image.stem}.png"
        if not picture.exists():
            load_image(question.image, size).save(picture)
        lines.append(json.dumps({"image": picture.name, "prompt": question.text, "answers": [question.answer]}))
    path = folder / f"easy-vqa-{split}-{count}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def normalize(answer: str) -> str:
    """Return an answer as it is compared: lower case, words only."""
    return " ".join(re.findall(r"[a-z0-9]+", answer.lower()))
