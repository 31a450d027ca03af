"""Read calibration input: a folder of images, a .jsonl, or a Hub dataset; and text from a file or a Hub dataset.

Of `n_samples` a share alpha is multimodal (image and prompt) and the rest text only (paper, "Mixed-token
calibration"). Images are opened here, before anything heavy: unreadable ones are named and skipped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from luq_gguf.core import folders, text_input
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.hashing import asked_once, content_of
from luq_gguf.core.images import FORMATS, PIXELS, ValueRangeError, content_key, open_rgb, to_rgb
from luq_gguf.core.placeholders import without_placeholders
from luq_gguf.core.sample_content import asked
from luq_gguf.core.types import Sample
from luq_gguf.hf import hub_datasets, sample_rows
from luq_gguf.hf.hub_datasets import TO_LEARN, TO_MEASURE
from luq_gguf.hf.sample_files import read_jsonl

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_IMAGES = "HuggingFaceM4/A-OKVQA"
DEFAULT_TEXT = "Salesforce/wikitext:wikitext-2-raw-v1"
FOLDER_PROMPT = "Describe this image in detail."
# What is an image by its name; one that Pillow cannot open, such as HEIC, is named and not left out in silence.
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"),
    *(".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw", ".psd"),
}
_COLUMNS = "Choose a dataset with `image` and `question` columns, or with `messages` and `images`."
CHARACTERS_PER_CHUNK = 4096  # enough text for a chunk of 512 tokens in any of the usual vocabularies


class PictureCheck(Protocol):
    """Raises ValueError for a picture that a processor rejects; `key` stands for all that decides it."""

    @property
    def key(self) -> str: ...

    def __call__(self, picture: Image, /) -> None: ...


def read_calibration(
    images: str | None,
    text: str | None,
    *,
    n_samples: int,
    alpha: float,
    seed: int,
    cache: Path,
    check: PictureCheck | None = None,
) -> CalibrationData:
    """Draw a calibration set. `cache` receives images of Hub datasets; images that `check` raises ValueError for are
    skipped. Raises CalibrationError.

    Where images are given and text is not, the text-only samples are the same set's prompts and answers without
    their images, so that nothing is downloaded that was not asked for.
    """
    if not 0 <= alpha <= 1:
        raise CalibrationError(
            f"--alpha {alpha} is not a share.", "Give a number from 0 (text only) to 1 (images only)."
        )
    if n_samples < 1:
        raise CalibrationError("--samples must be at least 1.", "The default is 128.")
    n_multimodal = round(alpha * n_samples)
    n_text = n_samples - n_multimodal
    pool: list[Sample] = []
    without_images = False
    image_source = text_source = None
    image_set = images or DEFAULT_IMAGES
    if n_multimodal or (n_text and images and text is None):
        pool = list(_read_set(image_set, seed, n_samples, cache))
        if not pool:
            raise CalibrationError(f"{image_set} contains no calibration samples.", "Give images or .jsonl lines.")
        image_source = source_name(image_set)
        without_images = n_multimodal > 0 and not any(sample.images for sample in pool)
    if without_images:  # a set of text is calibration, too
        if text:
            raise CalibrationError(
                f"{image_set} has no images, so there is nothing for the multimodal samples.",
                "Leave out --calib-text, or give --calib a set with images.",
            )
        alpha, n_multimodal, n_text = 0.0, 0, n_samples
    rng = np.random.default_rng(seed)
    order = [pool[i] for i in rng.permutation(len(pool))]
    multimodal, skipped = _readable(order, n_multimodal, check)
    if n_multimodal and not multimodal:
        raise CalibrationError(
            f"None of the {len(skipped)} images of {image_set} can be read (first: {skipped[0]}).",
            "They must be files that Pillow can open (JPEG, not HEIC) and the model's processor takes, in the folder "
            "or next to the .jsonl file.",
        )
    samples: tuple[Sample, ...] = ()
    lines = tuple(multimodal)
    document = None
    if n_text and images and text is None:
        spare = [s for s in order if s not in set(multimodal)] + list(multimodal)
        samples = tuple(sample.without_images for sample in spare[:n_text])
        lines += tuple(spare[:n_text])
    elif n_text:
        document = _read_text(text or DEFAULT_TEXT, n_text * CHARACTERS_PER_CHUNK)
        text_source = source_name(text or DEFAULT_TEXT)
    source_of = {image_source: image_set, text_source: text or DEFAULT_TEXT}
    commits = {
        name: hub_datasets.commit_of(source)
        for name, source in source_of.items()
        if name and hub_datasets.is_on_hub(source)
    }
    return CalibrationData(
        tuple(multimodal),
        samples,
        document,
        n_text,
        alpha,
        seed,
        _digest(multimodal, samples, document),
        image_source,
        text_source,
        commits,
        tuple(skipped),
        lines,
        without_images,
    )


def read_questions(
    source: str, n_samples: int | None, seed: int, cache: Path, check: PictureCheck | None = None
) -> tuple[Sample, ...]:
    """Return the questions to measure with, all of them or a random sample. Raises CalibrationError where an image is
    missing, or `check` raises ValueError for it."""
    samples = _with_splits(source, list(_read_set(source, seed, n_samples, cache, TO_MEASURE)))
    if not samples:
        raise CalibrationError(
            f"{source} contains no questions.", 'Give a .jsonl file with lines of {"image", "prompt", "answers"}.'
        )
    if n_samples is not None and n_samples < len(samples):
        samples = [samples[i] for i in np.sort(np.random.default_rng(seed).permutation(len(samples))[:n_samples])]
    with_image = [sample for sample in samples if sample.images]
    _, bad = _readable(with_image, len(with_image), check)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CalibrationError(
            f"{source}: the image {bad[0]}{more} cannot be read.",
            "Results on an incomplete set would be misleading: repair the set.",
        )
    return tuple(samples)


def _with_splits(source: str, samples: list[Sample]) -> list[Sample]:
    """The samples of a set of which all have a split, or none has. Raises CalibrationError for a file where some lines
    have none; a Hub dataset, which cannot be mended here, has no splits then."""
    without = next((sample for sample in samples if sample.split is None), None)
    if without is None or all(sample.split is None for sample in samples):
        return samples
    if without.line is None:
        return [replace(sample, split=None) for sample in samples]
    raise CalibrationError(
        f'{source_name(source)}, line {without.line} has no "split", and other lines have one.',
        'Give every line a "split", or none of them.',
    )


def _check_picture(path: Path, check: PictureCheck | None) -> None:
    """Decode and check a picture, the first time that anything asks about its contents: photos take a while. Raises
    ValueError."""

    def is_good() -> bool:
        picture = open_rgb(path)
        if check:
            check(picture)
        return True

    if "\0" in str(path) or not path.is_file():
        open_rgb(path)  # says why
    reading = f"picture {version('pillow')} {PIXELS} {','.join(FORMATS)}"
    asked_once(f"{reading} {check.key}" if check else reading, content_of(path), is_good)


def source_name(source: str) -> str:
    """Return how a source is named in published files: a Hub id, or a file's name without its folders."""
    return Path(source).expanduser().name if hub_datasets.is_local(source) else source


def _digest(multimodal: Iterable[Sample], text: Iterable[Sample], document: str | None) -> str:
    digest = hashlib.sha256()
    for sample in (*multimodal, *text):
        digest.update(json.dumps([*asked(sample, content_key), sample.answer]).encode())
    digest.update((document or "").encode())
    return digest.hexdigest()


def _readable(
    samples: Iterable[Sample], count: int, check: PictureCheck | None = None
) -> tuple[list[Sample], list[str]]:
    """The first samples whose images can be decoded and pass the check, and the names of those met that do not."""
    good: list[Sample] = []
    bad: list[str] = []
    for sample in samples:
        if len(good) == count:
            break
        if not sample.images:
            continue
        unreadable = next((image for image in sample.images if not _is_readable(image, check)), None)
        if unreadable is None:
            good.append(sample)
        else:
            bad.append(unreadable.name[:100])  # for a message; who makes names of a megabyte has no need of the rest
    return good, bad


def _is_readable(image: Path, check: PictureCheck | None) -> bool:
    try:
        _check_picture(image, check)
    except (OSError, ValueError):
        return False
    return True


def _read_set(
    source: str, seed: int, n_samples: int | None, cache: Path, splits: Sequence[str] = TO_LEARN
) -> Iterator[Sample]:
    """The samples of a set, without what their prompts hold in place of an image."""
    for sample in _samples(source, seed, n_samples, cache, splits):
        yield replace(sample, prompt=without_placeholders(sample.prompt))


def _samples(source: str, seed: int, n_samples: int | None, cache: Path, splits: Sequence[str]) -> Iterator[Sample]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = [file for file in folders.visible_files(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        return iter([Sample(FOLDER_PROMPT, (file,)) for file in files])
    if path.is_file():
        return read_jsonl(path, with_splits=splits == TO_MEASURE)
    if "/" in source and not source.startswith((".", "/", "~")) and path.suffix != ".jsonl":
        return samples_from_rows(hub_datasets.rows(source, seed, splits), n_samples, cache)
    raise CalibrationError(
        f"{source}: no such file or folder.", "Give a folder of images, a .jsonl file or a Hub dataset id."
    )


def samples_from_rows(rows: Iterable[dict[str, Any]], count: int | None, cache: Path) -> Iterator[Sample]:
    """Yield samples from rows with an image column and a question (from all of them where `count` is None); images are
    kept in `cache`, named by their content."""
    for number, row in enumerate(itertools.islice(rows, count), 1):
        try:
            sample = sample_rows.sample_of(row, lambda image: _kept(image, cache), _answers_of_row)
            images = [] if sample else sample_rows.images_of(row)
        except ValueError as error:
            raise CalibrationError(f"Row {number} of the dataset is not a sample: {error}.", _COLUMNS) from None
        if sample is None and images:
            sample = Sample(FOLDER_PROMPT, tuple(_kept(image, cache) for image in images), _answers_of_row(row))
        if sample is None or (not sample.images and any(hasattr(value, "save") for value in row.values())):
            raise _no_image_column()
        yield replace(sample, split=_split_of_row(row))


def _split_of_row(row: Mapping[str, Any]) -> str | None:
    """The split of a row; None where its column of that name holds something else than names."""
    try:
        return sample_rows.split_of(row)
    except ValueError:
        return None


def _kept(image: Any, cache: Path) -> Path:
    """The file of an image of a dataset, which is written unless it is there. Raises CalibrationError."""
    if not hasattr(image, "save"):
        raise _no_image_column()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        picture = to_rgb(image)
    except ValueRangeError as error:
        raise CalibrationError(f"An image of the dataset {error}.", "Choose another dataset.") from None
    name = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:24]
    path = cache / f"{name}.png"
    if not path.exists():
        picture.save(path)
    return path


def _no_image_column() -> CalibrationError:
    return CalibrationError("The dataset's rows have no image column.", _COLUMNS)


def _answers_of_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers of a row; none where its column of that name holds something else, which calibration does without."""
    try:
        return sample_rows.answers_of(row)
    except ValueError:
        return ()


def _read_text(source: str, n_characters: int) -> str:
    path = Path(source).expanduser()
    if path.is_file():
        try:
            text = text_input.read(path, n_characters)
        except ValueError as error:
            raise CalibrationError(f"{source} is {error}.", text_input.HINT) from None
    elif "/" in source and not source.startswith((".", "/", "~")):
        text = ""
        for row in hub_datasets.rows(source, 0):
            text += str(row.get("text") or "")
            if len(text) >= n_characters:
                break
    else:
        raise CalibrationError(f"{source}: no such text file.", "Give --calib-text a text file or a Hub dataset id.")
    if not text.strip():
        raise CalibrationError(
            f"{source} contains no text.", "Give --calib-text a file or a dataset with a text column."
        )
    return text
