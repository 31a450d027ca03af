"""What a random family's files predict, against transformers: for the tests and for the table in docs/families.md."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from families import Family, any_tokenizer_environment
from PIL import Image

from luq_gguf.core.types import RunOptions, Sample
from luq_gguf.evaluation import against
from luq_gguf.evaluation.against import Predictions
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp import tools
from luq_gguf.method.metrics.kld import kl_divergence, same_top
from luq_gguf.quantization.stage import make_f16, make_mmproj
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import load_spec_for_profile

QUESTION = """what is the color of the circle in the picture?
is there a blue triangle, a yellow rectangle or a green one? the model reads the picture and answers with one word:
yes or no, the shape, or the color. it is red. is there none of them in the picture, and is there no circle?"""


@dataclass(frozen=True)
class Figures:
    """What was measured of a file on two prompts: the mean KLD from transformers in nats, the share of the same top
    tokens, which tokens of the prompt differ; and how far the file's predictions for one picture are from those for
    another, None without pictures."""

    n: int
    kld: float
    same_top: float
    differences: str
    between_pictures: float | None
    expects: float

    def __str__(self) -> str:
        return f"{self.n} positions, mean KLD {self.kld:.2e}, same top {self.same_top:.1%}"


def missing_packages(family: Family) -> list[str]:
    """Return the packages that a family needs and that are not installed here."""
    return [name for name in family.packages if importlib.util.find_spec(name) is None]


@contextmanager
def environment(family: Family, folder: Path) -> Iterator[None]:
    """The environment in which a family is converted; `folder` must be there."""
    more = any_tokenizer_environment(folder / "llama.cpp", tools.find()) if family.byte_level else {}
    with mock.patch.dict(os.environ, more):
        yield


def pictures(folder: Path, side: int, count: int) -> list[Path]:
    """Draw so many square pictures of coloured blocks."""
    rng = np.random.default_rng(side)
    paths = [folder / f"{side}-{number}.png" for number in range(count)]
    for path in paths:
        blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blocks.resize((side, side), Image.Resampling.BICUBIC).save(path)
    return paths


def convert_16_bit(model: Path, folder: Path) -> tuple[Path, Path | None]:
    """Make the 16-bit file and the mmproj alone, in a run folder: what the preflight refuses is refused here."""
    with RunFolder(folder, create=True) as run:
        session = load_spec_for_profile(run, str(model), RunOptions())
        return make_f16(session), make_mmproj(session)


def measure(
    family: Family, model: Path, f16: Path, mmproj: Path | None, folder: Path, *, as_is: bool = False
) -> Figures:
    """Compare a 16-bit file with transformers, which is made to compute as llama.cpp where the family says how, unless
    `as_is`."""
    shown = pictures(folder, family.side, 2) if family.image else [None, None]
    samples = [Sample(QUESTION, (picture,)) for picture in shown]
    with family.as_llama_cpp() if family.as_llama_cpp and not as_is else nullcontext():
        pairs = against.predictions(
            f16, mmproj, open_checkpoint(str(model)), samples, Placement(torch.device("cpu"), exact=True), threads=1
        )
    return _figures(pairs, has_pictures=bool(family.image))


def _figures(pairs: list[Predictions], *, has_pictures: bool) -> Figures:
    kld = np.concatenate([kl_divergence(pair.reference, pair.file) for pair in pairs])
    top = np.concatenate([same_top(pair.reference, pair.file) for pair in pairs])
    behind = [pair.file[pair.n_before :] for pair in pairs]
    between = float(kl_divergence(*behind).mean()) if has_pictures else None
    expects = float(np.concatenate([np.exp(pair.reference).max(axis=1) for pair in pairs]).mean())
    return Figures(len(kld), float(kld.mean()), float(top.mean()), pairs[0].differences, between, expects)
