"""Grounds, inks, noise, letters and shapes: what pictures are made of, at random.

Every function that takes a generator draws from it in a fixed order: the order is part of what a seed means, and the
measured accuracies hold for these pictures only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from luq_gguf.workflows.easy_vqa import SIDE

Color = tuple[int, ...]
Point = tuple[float, float]
T = TypeVar("T")

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold")
_WIDEST, _SMALLEST = 98, 9  # pixels of a word; the size of letters below which it is not made narrower
_MARGIN = 6  # pixels around a word, so that turning cuts nothing off


@cache
def font(which: int, size: int) -> ImageFont.FreeTypeFont:
    """Return one of FONTS, which matplotlib brings, in a size in pixels."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{FONTS[which]}.ttf"), size)


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def ground(rng: np.random.Generator) -> Image.Image:
    """Return a pale ground, [SIDE, SIDE] in RGB: of one colour, or half of the time a slope between two."""
    base = rng.integers(205, 256, size=3)
    pixels: np.ndarray = base
    if rng.random() < 0.5:
        other = np.clip(base + rng.integers(-35, 36, size=3), 190, 255)
        slope = np.linspace(0, 1, SIDE)
        slope = slope[:, None, None] if rng.random() < 0.5 else slope[None, :, None]
        pixels = base * (1 - slope) + other * slope
    return Image.fromarray(np.broadcast_to(pixels, (SIDE, SIDE, 3)).astype(np.uint8))


def dark_ink(rng: np.random.Generator) -> Color:
    return _color(rng, 0, 110)


def weak_ink(rng: np.random.Generator) -> Color:
    """Return anything from black to what hardly stands out."""
    return _color(rng, 0, int(rng.integers(60, 190)))


def _color(rng: np.random.Generator, darkest: int, end: int) -> Color:
    return tuple(int(value) for value in rng.integers(darkest, end, size=3))


def with_noise(rng: np.random.Generator, canvas: Image.Image) -> np.ndarray:
    """Return the pixels, uint8 [SIDE, SIDE, 3]; six times in ten with noise of up to 22 grey levels."""
    pixels = np.asarray(canvas)
    if rng.random() < 0.6:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(1, 22))
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


def written_word(rng: np.random.Generator, word: str) -> np.ndarray:
    """Return a picture of the word, uint8 [SIDE, SIDE, 3]: turned half of the time, at times pale on a dark plate, or
    crossed by lines."""
    canvas, which = ground(rng), int(rng.integers(len(FONTS)))
    letters = _mask(word, which, int(rng.integers(10, 24)))
    on_plate = rng.random() < 0.3
    ink: Color | Image.Image = _color(rng, 150, 256) if on_plate else weak_ink(rng)
    shown = letters
    if on_plate:
        plate = Image.new("RGB", letters.size, dark_ink(rng))
        plate.paste(ink, mask=letters)
        ink, shown = plate, Image.new("L", letters.size, 255)
    if rng.random() < 0.5:
        angle = float(rng.uniform(-14, 14))
        shown = shown.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
        if isinstance(ink, Image.Image):
            ink = ink.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    x, y = (int(rng.integers(0, max(1, SIDE - extent))) for extent in shown.size)
    canvas.paste(ink, (x, y), shown)
    if rng.random() < 0.3:
        pen = ImageDraw.Draw(canvas)
        for _ in range(int(rng.integers(1, 4))):
            pen.line([int(value) for value in rng.integers(0, SIDE, size=4)], fill=weak_ink(rng))
    return with_noise(rng, canvas)


def _mask(word: str, which: int, size: int) -> Image.Image:
    """The word's letters in white, in the given size or in the largest that is not too wide."""
    left, top, right, bottom = font(which, size).getbbox(word)
    while right - left > _WIDEST and size > _SMALLEST:
        size -= 1
        left, top, right, bottom = font(which, size).getbbox(word)
    mask = Image.new("L", (right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN), 0)
    ImageDraw.Draw(mask).text((_MARGIN - left, _MARGIN - top), word, font=font(which, size), fill=255)
    return mask


def put_shape(pen: ImageDraw.ImageDraw, shape: str, center: Point, radius: float, fill: Color) -> None:
    """Draw one of SHAPES; all look about as large for the same radius in pixels."""
    x, y = center
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        half = radius * 0.89
        pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "triangle":
        foot = y + radius * 0.8
        pen.polygon([(x, y - radius * 1.1), (x - radius, foot), (x + radius, foot)], fill=fill)
    else:
        corners = []
        for k in range(10):
            angle, reach = -np.pi / 2 + k * np.pi / 5, radius * (1.15 if k % 2 == 0 else 0.5)
            corners.append((x + reach * np.cos(angle), y + reach * np.sin(angle)))
        pen.polygon(corners, fill=fill)


def scattered(rng: np.random.Generator, n: int, cells: int) -> list[Point]:
    """Return n centres in different cells of a grid of cells x cells, each a little off its cell's middle."""
    size = SIDE / cells
    chosen = rng.choice(cells * cells, n, replace=False)

    def place(cell: int) -> float:
        return (cell + 0.5) * size + float(rng.uniform(-0.1, 0.1)) * size

    return [(place(cell % cells), place(cell // cells)) for cell in chosen]
