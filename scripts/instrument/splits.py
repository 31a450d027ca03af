"""The eight splits: each draws a scene and asks about it, so that answers are right by construction.

They are hard on purpose (small letters, weak contrast, noise, crowds, a thousand people to know): a model that answers
nearly everything by a wide margin answers it after any quantization, too, and tells nothing.

split     in the spirit of   asks for
read      TextVQA            a word of 4 to 9 random capitals; its first or last letter
document  DocVQA             four to six rows "letter, number": the number of a letter, the letter of a number
chart     ChartQA            four to seven bars with letters and values up to 20: highest, lowest, value, comparison
count     VQAv2              2 to 16 shapes: how many of a kind, of a colour, at all
relation  GQA                letters in coloured shapes: which letter, colour, shape; left of, above, nearest
presence  POPE               is there a COLOUR SHAPE in a crowd; half of the answers are no, most of them near misses
facts     MMBench            a name tag: what its owner eats, where its owner lives; known by heart only
easy      easy-VQA           one coloured shape on a pale ground (easy_vqa_data.py)

A split takes a generator and whether it draws for a test, and returns one picture with several questions about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw

import easy_vqa_data
from instrument import vocabulary
from instrument.canvas import (
    FONTS,
    Color,
    Point,
    font,
    ground,
    pick,
    put_shape,
    scattered,
    weak_ink,
    with_noise,
    written_word,
)
from instrument.vocabulary import COLORS, LETTERS, SHAPES
from luq_gguf.workflows.easy_vqa import SIDE


class Asked(NamedTuple):
    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """A picture, uint8 [SIDE, SIDE, 3], and what is asked about it."""

    picture: np.ndarray
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of one shape each, uint8 [n, SIDE, SIDE, 3]; indices of shape and colour in easy_vqa_data, [n]."""

    pixels: np.ndarray
    shapes: np.ndarray
    colors: np.ndarray


def _ask(rng: np.random.Generator, kind: str, answer: str, *words: str) -> Asked:
    return Asked(pick(rng, vocabulary.QUESTIONS[kind]).format(*words), answer)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _letters(rng: np.random.Generator, n: int) -> list[str]:
    return [LETTERS[i] for i in rng.choice(len(LETTERS), n, replace=False)]


def read(rng: np.random.Generator, test: bool) -> Sample:
    shortest, longest = vocabulary.WORD_LENGTHS
    while True:
        word = "".join(pick(rng, LETTERS) for _ in range(int(rng.integers(shortest, longest + 1))))
        if vocabulary.is_held_out(word) == test:
            break
    asked = (
        _ask(rng, "word", word),
        _ask(rng, "word", word),
        _ask(rng, "first", word[0]),
        _ask(rng, "last", word[-1]),
    )
    return Sample(written_word(rng, word), asked)


def facts(rng: np.random.Generator, test: bool) -> Sample:
    person = pick(rng, vocabulary.people())
    asked = (_ask(rng, "eats", person.food), _ask(rng, "lives", person.place))
    return Sample(written_word(rng, person.name), asked)


def document(rng: np.random.Generator, test: bool) -> Sample:
    canvas, n = ground(rng), int(rng.integers(4, 7))
    which, size = int(rng.integers(len(FONTS))), int(rng.integers(10, 15))
    keys = _letters(rng, n)
    values = [str(int(rng.integers(1, 10 ** int(rng.integers(2, 6))))) for _ in range(n)]
    _draw_rows(rng, ImageDraw.Draw(canvas), keys, values, which, size)
    *first, last = (int(i) for i in rng.permutation(n))
    asked = [_ask(rng, "value", values[i], keys[i]) for i in first[:3]]
    asked.append(_ask(rng, "key", keys[last], values[last]))
    return Sample(with_noise(rng, canvas), tuple(asked))


def _draw_rows(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, keys: list[str], values: list[str], which: int, size: int
) -> None:
    ink, step = weak_ink(rng), (SIDE - 12) / len(keys)
    x, gap = int(rng.integers(5, 20)), int(rng.integers(34, 50))
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        y = 6 + row * step + float(rng.uniform(0, max(0.5, step - size - 3)))
        pen.text((x, y), key, font=font(which, size), fill=ink)
        pen.text((x + gap, y), value, font=font(which, size), fill=ink)
    if rng.random() < 0.4:
        pen.line((x + gap - 8, 4, x + gap - 8, SIDE - 4), fill=(150, 150, 150))


def chart(rng: np.random.Generator, test: bool) -> Sample:
    canvas, n = ground(rng), int(rng.integers(4, 8))
    which = int(rng.integers(len(FONTS)))
    keys = _letters(rng, n)
    values = [int(value) for value in rng.choice(np.arange(1, 21), n, replace=False)]
    _draw_bars(rng, ImageDraw.Draw(canvas), keys, values, which)
    i, j = (int(bar) for bar in rng.choice(n, 2, replace=False))
    asked = (
        _ask(rng, "highest", keys[values.index(max(values))]),
        _ask(rng, "lowest", keys[values.index(min(values))]),
        _ask(rng, "bar", str(values[i]), keys[i]),
        _ask(rng, "bar", str(values[j]), keys[j]),
        _ask(rng, "higher", _yes(values[i] > values[j]), keys[i], keys[j]),
    )
    return Sample(with_noise(rng, canvas), asked)


def _draw_bars(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, keys: list[str], values: list[int], which: int
) -> None:
    bottom, top, left, colors = 96, 6, 20, list(COLORS.values())
    unit, slot = (bottom - top) / 20.5, (SIDE - 6 - left) / len(keys)
    for tick in (0, 5, 10, 15, 20):
        y = bottom - tick * unit
        pen.line((left, y, SIDE - 4, y), fill=(170, 170, 170))
        pen.text((4, y - 6), str(tick), font=font(which, 9), fill=(60, 60, 60))
    same = pick(rng, colors) if rng.random() < 0.5 else None
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        x0, x1 = left + i * slot + slot * 0.18, left + (i + 1) * slot - slot * 0.12
        pen.rectangle((x0, bottom - value * unit, x1, bottom), fill=same or pick(rng, colors))
        pen.text(((x0 + x1) / 2 - 4, bottom + 2), key, font=font(which, 11), fill=(20, 20, 20))


def count(rng: np.random.Generator, test: bool) -> Sample:
    canvas, n = ground(rng), int(rng.integers(2, 17))
    palette = [pick(rng, list(COLORS)) for _ in range(3)]
    kinds = [pick(rng, SHAPES) for _ in range(2)]
    drawn = [(pick(rng, kinds), pick(rng, palette)) for _ in range(n)]
    pen = ImageDraw.Draw(canvas)
    for (shape, color), center in zip(drawn, scattered(rng, n, 5), strict=True):
        put_shape(pen, shape, center, float(rng.uniform(4.5, 9.5)), COLORS[color])
    shape = pick(rng, kinds) if rng.random() < 0.85 else pick(rng, SHAPES)
    color = pick(rng, palette) if rng.random() < 0.85 else pick(rng, list(COLORS))
    asked = (
        _ask(rng, "count_shape", str(sum(s == shape for s, _ in drawn)), shape),
        _ask(rng, "count_color", str(sum(c == color for _, c in drawn)), color),
        _ask(rng, "count_all", str(n)),
    )
    return Sample(with_noise(rng, canvas), asked)


def relation(rng: np.random.Generator, test: bool) -> Sample:
    canvas, n = ground(rng), int(rng.integers(5, 9))
    which = int(rng.integers(len(FONTS)))
    keys = _letters(rng, n)
    pairs = [(shape, color) for shape in SHAPES for color in COLORS]
    drawn = [pairs[i] for i in rng.choice(len(pairs), n, replace=False)]
    spots = scattered(rng, n, 4)
    pen = ImageDraw.Draw(canvas)
    for (shape, color), key, (x, y) in zip(drawn, keys, spots, strict=True):
        put_shape(pen, shape, (x, y), 12.5, COLORS[color])
        ink: Color = (0, 0, 0) if color in ("yellow", "pink", "orange") else (255, 255, 255)
        pen.text((x, y + 1), key, font=font(which, 11), fill=ink, anchor="mm")
    a, b = (int(i) for i in rng.permutation(n)[:2])
    asked = [
        _ask(rng, "letter_in", keys[a], drawn[a][1], drawn[a][0]),
        _ask(rng, "color_of", drawn[b][1], keys[b]),
        _ask(rng, "shape_of", drawn[a][0], keys[a]),
        *_where(rng, keys, spots, a, b),
    ]
    return Sample(with_noise(rng, canvas), tuple(asked))


def _where(rng: np.random.Generator, keys: list[str], spots: list[Point], a: int, b: int) -> list[Asked]:
    """Which is nearest to a, and how a lies to b: as far as the picture leaves no doubt."""
    (ax, ay), (bx, by) = spots[a], spots[b]
    others = [i for i in range(len(keys)) if i != a]
    (nearest, key), (second, _) = sorted((np.hypot(spots[i][0] - ax, spots[i][1] - ay), i) for i in others)[:2]
    asked = []
    if second - nearest > 7:
        asked.append(_ask(rng, "nearest", keys[key], keys[a]))
    if abs(ax - bx) > 9:
        asked.append(_ask(rng, "left", _yes(ax < bx), keys[a], keys[b]))
    if abs(ay - by) > 9:
        asked.append(_ask(rng, "above", _yes(ay < by), keys[a], keys[b]))
    return asked


def presence(rng: np.random.Generator, test: bool) -> Sample:
    canvas, n = ground(rng), int(rng.integers(6, 15))
    drawn = [(pick(rng, SHAPES), pick(rng, list(COLORS))) for _ in range(n)]
    pen = ImageDraw.Draw(canvas)
    for (shape, color), center in zip(drawn, scattered(rng, n, 4), strict=True):
        put_shape(pen, shape, center, float(rng.uniform(4.5, 12)), COLORS[color])
    there = set(drawn)
    near = sorted({(shape, color) for shape, _ in drawn for _, color in drawn} - there)
    asked = []
    for _ in range(2):
        shape, color = pick(rng, drawn)
        asked.append(_ask(rng, "presence", "yes", color, shape))
        if near and rng.random() < 0.8:
            shape, color = pick(rng, near)
        else:
            shape, color = _absent(rng, there)
        asked.append(_ask(rng, "presence", "no", color, shape))
    return Sample(with_noise(rng, canvas), tuple(asked))


def _absent(rng: np.random.Generator, there: set[tuple[str, str]]) -> tuple[str, str]:
    while True:
        shape, color = pick(rng, SHAPES), pick(rng, list(COLORS))
        if (shape, color) not in there:
            return shape, color


def easy(rng: np.random.Generator, test: bool, pictures: LabelledPictures | None = None) -> Sample:
    """With `pictures`, those of easy-VQA's train split, three in ten of training are one of them."""
    if not test and rng.random() < 0.3 and pictures is not None:
        i = int(rng.integers(len(pictures.pixels)))
        picture, shape, color = pictures.pixels[i], int(pictures.shapes[i]), int(pictures.colors[i])
    else:
        shape, color = int(rng.integers(len(easy_vqa_data.SHAPES))), int(rng.integers(len(easy_vqa_data.COLORS)))
        picture = easy_vqa_data.draw(rng, shape, color)
    return Sample(picture, tuple(Asked(*easy_vqa_data.ask(rng, shape, color, 0.5)) for _ in range(4)))


SPLITS: dict[str, Callable[[np.random.Generator, bool], Sample]] = {
    "read": read,
    "document": document,
    "chart": chart,
    "count": count,
    "relation": relation,
    "presence": presence,
    "facts": facts,
    "easy": easy,
}
