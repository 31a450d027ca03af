"""What is drawn and asked: letters, shapes, colours, facts to know by heart, and the wording of every question."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORD_LENGTHS = (4, 9)  # letters of a word of the read split
SHAPES = ("circle", "square", "triangle", "star")
COLORS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 80, 200),
    "yellow": (240, 200, 20),
    "purple": (148, 60, 190),
    "orange": (255, 127, 14),
    "black": (25, 25, 25),
    "pink": (240, 130, 190),
}
FOODS = (
    "apples", "bread", "cheese", "dates", "eggs", "fish", "grapes", "honey", "ice", "jam",
    "kale", "lemons", "milk", "nuts", "olives", "pears", "rice", "soup", "tea", "yams",
)  # fmt: skip
PLACES = (
    "athens", "berlin", "cairo", "delhi", "essen", "fargo", "geneva", "hanoi", "izmir", "jena",
    "kyoto", "lima", "milan", "nairobi", "oslo", "paris", "quito", "rome", "seoul", "tunis",
)  # fmt: skip
QUESTIONS = {
    "word": ("what word is written?", "what does the sign say?", "read the text."),
    "first": ("what is the first letter?", "which letter does the word begin with?"),
    "last": ("what is the last letter?", "which letter does the word end with?"),
    "value": ("what is the value of {}?", "what number stands beside {}?"),
    "key": ("which letter has the value {}?", "what stands beside {}?"),
    "highest": ("which bar is the highest?", "what bar has the largest value?"),
    "lowest": ("which bar is the lowest?", "what bar has the smallest value?"),
    "bar": ("what is the value of bar {}?", "how high is bar {}?"),
    "higher": ("is bar {} higher than bar {}?",),
    "count_shape": ("how many {}s are there?", "count the {}s."),
    "count_color": ("how many {} shapes are there?", "count the {} shapes."),
    "count_all": ("how many shapes are there?", "count the shapes."),
    "letter_in": ("what letter is in the {} {}?", "which letter does the {} {} hold?"),
    "color_of": ("what color is the shape with {}?", "what is the color around {}?"),
    "shape_of": ("what shape is around {}?", "which shape holds {}?"),
    "nearest": ("which letter is nearest to {}?",),
    "left": ("is {} left of {}?",),
    "above": ("is {} above {}?",),
    "presence": ("is there a {} {}?", "does the picture show a {} {}?"),
    "eats": ("what does this one eat?", "what is the food of this one?"),
    "lives": ("where does this one live?", "what is the home of this one?"),
}

_PEOPLE, _PEOPLE_SEED = 1024, 20261127
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXZ", "AEIOUY"
_HELD_OUT = 26  # of the 256 values of a byte: a tenth


class Person(NamedTuple):
    """Whom the facts split asks about: a name of five letters, what its owner eats and where its owner lives."""

    name: str
    food: str
    place: str


@cache
def people() -> tuple[Person, ...]:
    """Return the 1,024 people of the facts split; they are always the same."""
    rng = np.random.default_rng(_PEOPLE_SEED)
    kinds = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    sizes = tuple(len(kind) for kind in kinds)
    chosen = rng.choice(int(np.prod(sizes)), _PEOPLE, replace=False)
    foods, places = rng.integers(len(FOODS), size=_PEOPLE), rng.integers(len(PLACES), size=_PEOPLE)
    found = []
    for number, food, place in zip(chosen, foods, places, strict=True):
        letters = np.unravel_index(int(number), sizes)
        name = "".join(kind[i] for kind, i in zip(kinds, letters, strict=True))
        found.append(Person(name, FOODS[food], PLACES[place]))
    return tuple(found)


def is_held_out(word: str) -> bool:
    """Return whether a word is of the tenth, chosen by hash, that tests are drawn from and training never is."""
    return hashlib.sha256(word.encode()).digest()[0] < _HELD_OUT


def tokenizer_lines() -> list[str]:
    """Return lines to train a tokenizer on: all questions, answers that are words, and letters and digits alone, so
    that what is read is spelled."""
    lines = []
    for texts in QUESTIONS.values():
        for text in texts:
            fillings = {0: [()], 1: [("K",), ("7",), ("blue",)], 2: [("red", "star"), ("A", "B")]}[text.count("{}")]
            lines += [text.format(*filling) for filling in fillings]
    return [*lines, *LETTERS, *"0123456789", *FOODS, *PLACES, *COLORS, *(f"{shape}s" for shape in SHAPES)]
