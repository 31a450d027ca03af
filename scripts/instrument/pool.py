"""Fills a folder with pictures and tokenised questions to train on: chunks that are the same whoever draws them.

A chunk is two files, one of pictures and one of questions in the tokens of each tokenizer asked for. Both are written
whole, and what is there already is not drawn again.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import easy_vqa_data
from instrument import draw, vocabulary
from instrument.prompts import Prompts
from instrument.splits import LabelledPictures, Sample
from luq_gguf.core.atomic import whole, write_text
from luq_gguf.core.errors import LuqError
from luq_gguf.core.units import format_seconds
from luq_gguf.workflows.easy_vqa import SIDE

CHUNK = 4096  # pictures
ASKED = 5  # questions of a picture that are kept, at most
_RECIPE = "recipe.txt"
NO_LETTER = len(vocabulary.LETTERS)  # where a word has ended
UNKNOWN = -100  # where there is no word; cross entropy leaves it out


@dataclass(frozen=True)
class Chunk:
    """Pictures of a pool and their questions, n of each.

    `pixels` uint8 [n, SIDE, SIDE, 3], mapped from disk; `ids` int16 [n, ASKED, LENGTH]; `sizes` int16 [n, ASKED, 2],
    tokens at all and of the answer; `counts` int16 [n], questions; `words` int16 [n, 9], the letters that a picture of
    the read split shows.
    """

    pixels: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    words: np.ndarray


def load(pool: Path, number: int, digest: str) -> Chunk:
    with np.load(_questions(pool, number, digest)) as saved:
        parts = {name: saved[name] for name in ("ids", "sizes", "counts", "words")}
    return Chunk(np.load(_pictures(pool, number), mmap_mode="r"), **parts)


def complete(pool: Path, digest: str) -> int:
    """Return how many chunks, counted from the first, are there in the tokens of this digest."""
    number = 0
    while _is_there(pool, number, digest):
        number += 1
    return number


def _is_there(pool: Path, number: int, digest: str) -> bool:
    return _questions(pool, number, digest).exists() and _pictures(pool, number).exists()


def _pictures(pool: Path, number: int) -> Path:
    return pool / f"{number:04d}.npy"


def _questions(pool: Path, number: int, digest: str) -> Path:
    return pool / f"{number:04d}.{digest}.npz"


def write_chunk(
    pool: Path, number: int, prompts: Sequence[Prompts], size: int = CHUNK, easy: LabelledPictures | None = None
) -> None:
    """Draw a chunk and write it in the tokens of all of the prompts."""
    pixels = np.empty((size, SIDE, SIDE, 3), np.uint8)
    words = np.full((size, vocabulary.WORD_LENGTHS[1]), UNKNOWN, np.int16)
    samples: list[Sample] = []
    for i, (split, drawn) in enumerate(draw.for_training(number, size, easy)):
        pixels[i] = drawn.picture
        samples.append(drawn)
        if split == "read":
            letters = [vocabulary.LETTERS.index(letter) for letter in drawn.asked[0].answer]
            words[i] = NO_LETTER
            words[i, : len(letters)] = letters
    with whole(_pictures(pool, number)) as part, part.open("wb") as file:
        np.save(file, pixels)
    counts = np.array([min(ASKED, len(drawn.asked)) for drawn in samples], np.int16)
    for one in prompts:
        padded = [drawn.asked[min(j, n - 1)] for drawn, n in zip(samples, counts, strict=True) for j in range(ASKED)]
        ids, sizes = one.rows(padded)
        parts = {"ids": ids.reshape(size, ASKED, -1), "sizes": sizes.reshape(size, ASKED, 2)}
        with whole(_questions(pool, number, one.digest)) as part, part.open("wb") as file:
            np.savez(file, counts=counts, words=words, **parts)


_easy: LabelledPictures | None = None  # of a worker: sent once, not with every chunk


def _begin(easy: LabelledPictures | None) -> None:
    global _easy
    _easy = easy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop


def _work(pool: Path, number: int, prompts: Sequence[Prompts], size: int) -> None:
    write_chunk(pool, number, prompts, size, _easy)


def fill(
    pool: Path,
    prompts: Sequence[Prompts],
    n: int,
    workers: int,
    size: int = CHUNK,
    easy: LabelledPictures | None = None,
) -> None:
    """Write the first n chunks, as far as they are not there. Raises LuqError where the pool has another recipe: other
    sizes of chunks, or drawn with or without easy-VQA's pictures."""
    pool.mkdir(parents=True, exist_ok=True)
    _same_recipe(pool, f"{size} pictures a chunk, {'with' if easy else 'without'} pictures of easy-VQA")
    missing = [k for k in range(n) if not all(_is_there(pool, k, one.digest) for one in prompts)]
    began = time.monotonic()
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (easy,)) as executor:
        drawn = [executor.submit(_work, pool, number, prompts, size) for number in missing]
        try:
            for done, future in enumerate(as_completed(drawn), 1):
                future.result()
                left = format_seconds((time.monotonic() - began) / done * (len(missing) - done))
                print(f"{n - len(missing) + done} of {n} chunks of {size} pictures, {left} left", flush=True)
        except BaseException:  # chunks that are being drawn are finished, others are not begun
            executor.shutdown(cancel_futures=True)
            raise


def recipe(pool: Path) -> str:
    """Return what decides what is in the chunks. Raises LuqError where the folder is no pool."""
    path = pool / _RECIPE
    if not path.exists():
        raise LuqError(f"{pool} is not a pool of pictures.", "Make one with the command pool.")
    return path.read_text().strip()


def _same_recipe(pool: Path, wanted: str) -> None:
    if not (pool / _RECIPE).exists():
        write_text(pool / _RECIPE, wanted + "\n")
    elif recipe(pool) != wanted:
        raise LuqError(f"{pool} holds chunks of another recipe: {recipe(pool)}.", "Give another folder.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pool", type=Path, help="the folder to fill; what it already holds is kept")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints in whose tokens questions are kept")
    parser.add_argument("--chunks", type=int, default=26, help=f"how many chunks of {CHUNK} pictures (default: 26)")
    parser.add_argument("--size", type=int, default=CHUNK, help=f"pictures of a chunk (default: {CHUNK})")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (default: 2)")
    parser.add_argument(
        "--easy-vqa",
        action="store_true",
        help="three in ten pictures of the easy split are those of easy-VQA's train split (default: all are drawn)",
    )


def run(args: argparse.Namespace) -> None:
    easy = LabelledPictures(*easy_vqa_data.labelled_train_images()) if args.easy_vqa else None
    fill(args.pool, [Prompts.of(folder) for folder in args.checkpoints], args.chunks, args.workers, args.size, easy)
