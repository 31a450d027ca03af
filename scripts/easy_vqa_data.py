"""Training data in the style of easy-VQA: its train split, and more images and questions like those.

easy-VQA asks 107 distinct questions about one coloured shape on a pale background. Nothing here reads its test split.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from luq_gguf.workflows.easy_vqa import SIDE, load_image, questions

SHAPES = ("circle", "rectangle", "triangle")
COLORS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
ANSWERS = ("yes", "no", *SHAPES, *COLORS)

_ASK_SHAPE = (
    "what shape is in the image?",
    "what shape is present?",
    "what shape does the image contain?",
    "what is the {color} shape?",
)
_ASK_COLOR = (
    "what color is the {shape}?",
    "what color is the {noun}?",
    "what is the color of the {shape}?",
    "what is the color of the {noun}?",
)
_ASK_PRESENT = ("is there a {}?", "is there a {} in the image?", "does the image contain a {}?", "is a {} present?")
_ASK_ABSENT = (
    "is there not a {}?",
    "is there not a {} in the image?",
    "does the image not contain a {}?",
    "is no {} present?",
)


def labelled_train_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return train images whose questions tell both attributes: uint8 [n, SIDE, SIDE, 3], shape and colour index
    [n]."""
    told: dict[Path, dict[str, str]] = defaultdict(dict)
    for question in questions("train"):
        if question.answer in SHAPES:
            told[question.image]["shape"] = question.answer
        if question.answer in COLORS:
            told[question.image]["color"] = question.answer
    known = {path: labels for path, labels in sorted(told.items()) if len(labels) == 2}
    pixels = np.stack([np.asarray(load_image(path)) for path in known])
    shapes = np.array([SHAPES.index(labels["shape"]) for labels in known.values()])
    colors = np.array([list(COLORS).index(labels["color"]) for labels in known.values()])
    return pixels, shapes, colors


def draw(rng: np.random.Generator, shape: int, color: int) -> np.ndarray:
    """Draw one image in easy-VQA's manner, uint8 [SIDE, SIDE, 3]; sizes and backgrounds are those seen in its train
    split."""
    scale = 4  # drawn large and shrunk, for the same soft edges
    ground = tuple(int(v) for v in rng.integers(230, 256, size=3))
    canvas = Image.new("RGB", (64 * scale, 64 * scale), ground)
    pen = ImageDraw.Draw(canvas)
    width = float(rng.uniform(8, 33))
    height = float(rng.uniform(8, 33)) if SHAPES[shape] == "rectangle" else width
    if SHAPES[shape] == "triangle":
        height = width * 3**0.5 / 2
    left, top = float(rng.uniform(0, 64 - width)), float(rng.uniform(0, 64 - height))
    box = [scale * v for v in (left, top, left + width, top + height)]
    fill = list(COLORS.values())[color]
    if SHAPES[shape] == "circle":
        pen.ellipse(box, fill=fill)
    elif SHAPES[shape] == "rectangle":
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=fill)
    small = canvas.resize((64, 64), Image.Resampling.BOX)
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def ask(rng: np.random.Generator, shape: int, color: int, negated_share: float) -> tuple[str, str]:
    """Return a random question about an image of that shape and colour, with its answer; a third are about
    attributes."""
    noun, hue = SHAPES[shape], list(COLORS)[color]
    kind = rng.random()
    if kind < 0.16:
        return str(rng.choice(_ASK_SHAPE)).format(color=hue), noun
    if kind < 0.33:
        return str(rng.choice(_ASK_COLOR)).format(shape="shape", noun=noun), hue
    present, negated = bool(rng.random() < 0.5), bool(rng.random() < negated_share)
    about_color = rng.random() < 0.6
    pool, true = (tuple(COLORS), hue) if about_color else (SHAPES, noun)
    subject = true if present else str(rng.choice([other for other in pool if other != true]))
    template = str(rng.choice(_ASK_ABSENT if negated else _ASK_PRESENT))
    return template.format(f"{subject} shape" if about_color else subject), "yes" if present != negated else "no"


def all_questions() -> list[str]:
    """Return every question text that easy-VQA asks, from the templates; the trainer checks that none is missing."""
    attribute = [t.format(color=c) for t in _ASK_SHAPE for c in COLORS]
    attribute += [t.format(shape="shape", noun=n) for t in _ASK_COLOR for n in SHAPES]
    subjects = [*SHAPES, *(f"{c} shape" for c in COLORS)]
    return sorted({*attribute, *(t.format(s) for t in _ASK_PRESENT + _ASK_ABSENT for s in subjects)})
