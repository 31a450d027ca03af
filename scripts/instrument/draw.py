"""Draws samples and questions: everything from a seed, and what tests ask is never trained on.

A test's seed ends with a number that no training seed has, and words of the read split are divided by hash. Names of
the facts split are the same on both sides: they are to be known by heart, in pictures never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from instrument.splits import SPLITS, LabelledPictures, Sample, easy

NAMES = tuple(SPLITS)
TEST_SEED, CALIBRATION_SEED, TRAINING_SEED = 977, 31, 7
_OF_TESTS = 1_000_003  # numpy fills shorter seeds up with zeros, so these four numbers never begin a training's stream


@dataclass(frozen=True)
class Question:
    """A picture, uint8 [SIDE, SIDE, 3], one question about it, and the answer."""

    split: str
    picture: np.ndarray
    text: str
    answer: str


def sample(
    rng: np.random.Generator, split: str, test: bool = False, easy_pictures: LabelledPictures | None = None
) -> Sample:
    """Draw one picture of a split with all of its questions. `easy_pictures` are taken among those of the easy split,
    except in tests."""
    if split == "easy":
        return easy(rng, test, easy_pictures)
    return SPLITS[split](rng, test)


def for_training(chunk: int, n: int, easy_pictures: LabelledPictures | None = None) -> Iterator[tuple[str, Sample]]:
    """Draw n samples to train on, the splits in turn, with the split's name; `chunk` numbers the stream."""
    rng = np.random.default_rng([TRAINING_SEED, chunk])
    for i in range(n):
        split = NAMES[i % len(NAMES)]
        yield split, sample(rng, split, easy_pictures=easy_pictures)


def for_tests(split: str, n: int, seed: int = TEST_SEED) -> Iterator[Question]:
    """Draw n test questions of a split, each about a picture of its own; the kinds of question take turns."""
    for i in range(n):
        rng = np.random.default_rng([seed, NAMES.index(split), i, _OF_TESTS])
        yield _one_question(split, sample(rng, split, test=True), i)


def for_calibration(split: str, n: int, seed: int = CALIBRATION_SEED) -> Iterator[Question]:
    """Draw n questions of a split like those trained on, for calibration."""
    for i in range(n):
        yield _one_question(split, sample(np.random.default_rng([seed, NAMES.index(split), i]), split), i)


def _one_question(split: str, drawn: Sample, i: int) -> Question:
    asked = drawn.asked[i % len(drawn.asked)]
    return Question(split, drawn.picture, asked.question, asked.answer)
