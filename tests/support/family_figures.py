"""What a random family's files predict, against transformers: for the tests and for the table in docs/families.md."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from families import Family, any_tokenizer_environment
from PIL import Image

from luq_gguf.core.errors import PictureError
from luq_gguf.core.picture_geometry import LimitOptions, PictureViews, Size
from luq_gguf.core.types import RunOptions, Sample
from luq_gguf.evaluation import against
from luq_gguf.evaluation.against import Predictions
from luq_gguf.hf.checkpoint import Checkpoint, open_checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp import tools
from luq_gguf.method.metrics.kld import kl_divergence, same_top
from luq_gguf.quantization.stage import make_f16, make_mmproj
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.pictures import PictureGeometry, read_picture
from luq_gguf.run.session import load_spec_for_profile

QUESTION = """what is the color of the circle in the picture?
is there a blue triangle, a yellow rectangle or a green one? the model reads the picture and answers with one word:
yes or no, the shape, or the color. it is red. is there none of them in the picture, and is there no circle?"""

LARGEST_FITTED = 1e-4  # nats: of fitted pictures, in 16 bits


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


@dataclass(frozen=True)
class PictureGap:
    """How far a file is from transformers behind pictures of one size: what both make of one, and the mean KLD in nats
    of the pictures as they are, and of fitted ones; where these cannot be, `refusal` says why.

    `fitted_limits` are the token limits that libmtmd needs for fitted pictures. `predictions` are of the pictures as
    they are.
    """

    views: PictureViews
    as_is: float
    fitted: float | None
    refusal: str
    fitted_limits: tuple[str, ...]
    predictions: tuple[Predictions, ...]


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
    return pictures_of((side, side), folder, count)


def pictures_of(size: Size, folder: Path, count: int) -> list[Path]:
    """The same in a width and a height."""
    rng = np.random.default_rng(size[0])
    paths = [folder / f"{size[0]}x{size[1]}-{number}.png" for number in range(count)]
    for path in paths:
        blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blocks.resize(size, Image.Resampling.BICUBIC).save(path)
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
    samples = [Sample(QUESTION, (picture,) if picture else ()) for picture in shown]
    with family.as_llama_cpp() if family.as_llama_cpp and not as_is else nullcontext():
        pairs = against.predictions(
            f16, mmproj, open_checkpoint(str(model)), samples, Placement(torch.device("cpu"), exact=True), threads=1
        )
    return _figures(pairs, has_pictures=bool(family.image))


def measure_gap(
    as_llama_cpp: Callable[[], AbstractContextManager[None]] | None,
    checkpoint: Checkpoint,
    files: tuple[Path, Path],
    geometry: PictureGeometry,
    samples: list[Sample],
    folder: Path,
) -> PictureGap:
    """Compare a 16-bit file and its mmproj, which are open in `geometry` too, with transformers on samples with
    pictures of one size. transformers is shown each picture as it is, and llama.cpp this one and the fitted one, which
    is written into `folder`. `as_llama_cpp` is as in Family."""
    fitted, limits, refusal = [], LimitOptions(), ""
    size = read_picture(samples[0].images[0]).size
    views = geometry.views(size)
    try:
        for sample in samples:
            (picture,) = sample.images
            written = geometry.write(picture, folder / f"fitted-{picture.name}").written
            fitted.append(replace(sample, images=(written,)))
        limits = geometry.needed(size)
    except PictureError as error:
        refusal = error.message

    def predictions(shown: list[Sample], image_tokens: tuple[int | None, int | None]) -> list[Predictions]:
        placement = Placement(torch.device("cpu"), exact=True)
        return against.predictions(*files, checkpoint, shown, placement, threads=1, image_tokens=image_tokens)

    with as_llama_cpp() if as_llama_cpp else nullcontext():
        if limits:
            pairs, mended = predictions(samples, (None, None)), predictions(fitted, limits.pair)
        else:  # the models are loaded once
            both = predictions([*samples, *fitted], (None, None))
            pairs, mended = both[: len(samples)], both[len(samples) :]
    kld = _behind(pairs, pairs)
    return PictureGap(views, kld, _behind(pairs, mended) if mended else None, refusal, limits.arguments, tuple(pairs))


def _behind(references: list[Predictions], files: list[Predictions]) -> float:
    """The mean KLD behind the pictures, of the files' predictions from transformers' of other ones."""
    rows = [
        kl_divergence(theirs.reference[theirs.n_before :], ours.file[ours.n_before :])
        for theirs, ours in zip(references, files, strict=True)
    ]
    return float(np.concatenate(rows).mean())


def _figures(pairs: list[Predictions], *, has_pictures: bool) -> Figures:
    kld = np.concatenate([kl_divergence(pair.reference, pair.file) for pair in pairs])
    top = np.concatenate([same_top(pair.reference, pair.file) for pair in pairs])
    behind = [pair.file[pair.n_before :] for pair in pairs]
    between = float(kl_divergence(*behind).mean()) if has_pictures else None
    expects = float(np.concatenate([np.exp(pair.reference).max(axis=1) for pair in pairs]).mean())
    return Figures(len(kld), float(kld.mean()), float(top.mean()), pairs[0].differences, between, expects)
