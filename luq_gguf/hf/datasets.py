"""Read calibration input: a folder of images, a .jsonl, or a Hub dataset; and text from a file or a Hub dataset.

Of `n_samples` a share alpha is multimodal (image and prompt) and the rest text only (paper, "Mixed-token
calibration"). Images are opened here, before anything heavy: unreadable ones are named and skipped.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from luq_gguf.core import json_input
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.hashing import asked_once, content_of
from luq_gguf.core.images import FORMATS, open_rgb
from luq_gguf.core.types import CalibrationSet, Sample
from luq_gguf.hf.download import network_errors

DEFAULT_IMAGES = "HuggingFaceM4/A-OKVQA"
DEFAULT_TEXT = "Salesforce/wikitext:wikitext-2-raw-v1"
FOLDER_PROMPT = "Describe this image in detail."
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TO_LEARN = ("train",)  # splits of a Hub dataset
TO_MEASURE = ("validation", "val", "test")  # test answers are often kept back
LONGEST_LINE = 4 * 1024 * 1024  # characters of a .jsonl's line
CHARACTERS_PER_CHUNK = 4096  # enough text for a chunk of 512 tokens in any of the usual vocabularies


def read_calibration(
    images: str | None, text: str | None, *, n_samples: int, alpha: float, seed: int, cache: Path
) -> CalibrationSet:
    """Draw a calibration set. `cache` receives images of Hub datasets. Raises CalibrationError.

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
    image_source = text_source = None
    image_set = images or DEFAULT_IMAGES
    if n_multimodal or (n_text and images and text is None):
        pool = list(_read_set(image_set, seed, n_samples, cache))
        if not pool:
            raise CalibrationError(f"{image_set} contains no calibration samples.", "Give images or .jsonl lines.")
        image_source = source_name(image_set)
    rng = np.random.default_rng(seed)
    order = [pool[i] for i in rng.permutation(len(pool))]
    multimodal, skipped = _readable(order, n_multimodal)
    if n_multimodal and not multimodal:
        raise CalibrationError(
            f"None of the {len(skipped)} images of {image_set} can be read (first: {skipped[0]}).",
            "They must be files that Pillow can open, in the folder or next to the .jsonl file.",
        )
    samples: tuple[Sample, ...] = ()
    document = None
    if n_text and images and text is None:
        spare = [s for s in order if s not in set(multimodal)] + list(multimodal)
        samples = tuple(Sample(s.prompt, None, s.answers) for s in spare[:n_text])
    elif n_text:
        document = _read_text(text or DEFAULT_TEXT, n_text * CHARACTERS_PER_CHUNK)
        text_source = source_name(text or DEFAULT_TEXT)
    source_of = {image_source: image_set, text_source: text or DEFAULT_TEXT}
    commits = {name: _commit_of(source) for name, source in source_of.items() if name and is_on_hub(source)}
    return CalibrationSet(
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
    )


def read_questions(source: str, n_samples: int | None, seed: int, cache: Path) -> tuple[Sample, ...]:
    """Return the questions to measure with, all of them or a random sample. Raises CalibrationError where an image is
    missing."""
    samples = list(_read_set(source, seed, n_samples or 1000, cache, TO_MEASURE))
    if not samples:
        raise CalibrationError(
            f"{source} contains no questions.", 'Give a .jsonl file with lines of {"image", "prompt", "answers"}.'
        )
    if n_samples is not None and n_samples < len(samples):
        samples = [samples[i] for i in np.sort(np.random.default_rng(seed).permutation(len(samples))[:n_samples])]
    with_image = [sample for sample in samples if sample.image]
    _, bad = _readable(with_image, len(with_image))
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CalibrationError(
            f"{source}: the image {bad[0]}{more} cannot be read.",
            "Results on an incomplete set would be misleading: repair the set.",
        )
    return tuple(samples)


def _check_picture(path: Path) -> None:
    """Decode a picture, the first time that anything asks about its contents: photos take a while. Raises
    ValueError."""

    def is_readable() -> bool:
        open_rgb(path)
        return True

    if "\0" in str(path) or not path.is_file():
        open_rgb(path)  # says why
    asked_once(f"picture {version('pillow')} {','.join(FORMATS)}", content_of(path), is_readable)


def source_name(source: str) -> str:
    """Return how a source is named in published files: a Hub id, or a file's name without its folders."""
    return Path(source).expanduser().name if _is_local(source) else source


def _is_local(source: str) -> bool:
    return Path(source).expanduser().exists()


def _digest(multimodal: Iterable[Sample], text: Iterable[Sample], document: str | None) -> str:
    digest = hashlib.sha256()
    for sample in (*multimodal, *text):
        image = content_of(sample.image) if sample.image else ""
        digest.update(json.dumps([image, sample.prompt, sample.answer]).encode())
    digest.update((document or "").encode())
    return digest.hexdigest()


def _readable(samples: Iterable[Sample], count: int) -> tuple[list[Sample], list[str]]:
    """The first samples whose images can be decoded, and the names of those met that cannot."""
    good: list[Sample] = []
    bad: list[str] = []
    for sample in samples:
        if len(good) == count:
            break
        if sample.image is None:
            continue
        try:
            _check_picture(sample.image)
            good.append(sample)
        except (OSError, ValueError):
            bad.append(sample.image.name[:100])  # for a message; who makes names of a megabyte has no need of the rest
    return good, bad


def _read_set(
    source: str, seed: int, n_samples: int, cache: Path, splits: Sequence[str] = TO_LEARN
) -> Iterator[Sample]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return iter([Sample(FOLDER_PROMPT, file) for file in files])
    if path.is_file():
        return read_jsonl(path)
    if "/" in source and not source.startswith((".", "/", "~")) and path.suffix != ".jsonl":
        return samples_from_rows(_hub_rows(source, seed, splits), n_samples, cache)
    raise CalibrationError(
        f"{source}: no such file or folder.", "Give a folder of images, a .jsonl file or a Hub dataset id."
    )


def read_jsonl(path: Path) -> Iterator[Sample]:
    """Yield a sample for each line {"image", "prompt", "answers"}; paths are relative to the file. Raises
    CalibrationError with the line number."""
    with path.open(encoding="utf-8", errors="replace") as file:
        # readline with a limit: a file without line ends may be larger than memory
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), 1):
            if not line.strip():
                continue
            try:
                prompt, image, given = _fields(json_input.parse(line, LONGEST_LINE))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise CalibrationError(
                    f"{path.name}, line {number} is not a calibration sample.",
                    'Each line is an object {"image": "a.png", "prompt": "...", "answers": ["..."]}.',
                ) from None
            yield Sample(prompt, path.parent / image if image else None, given, number)


def _fields(row: Any) -> tuple[str, str | None, tuple[str, ...]]:
    """Return prompt, image and answers of a line. Raises one of four errors where it is not a sample."""
    prompt, image = row["prompt"], row.get("image")
    answers = row.get("answers", row.get("answer")) or []
    if not isinstance(prompt, str) or not isinstance(image, str | None) or not isinstance(answers, str | list):
        raise TypeError
    if image and "\0" in image:
        raise ValueError
    given = (answers,) if isinstance(answers, str) else tuple(str(answer) for answer in answers)
    for text in (prompt, image or "", *given):
        text.encode()  # JSON can hold halves of surrogate pairs, which no tokenizer takes
    return prompt, image, given


def _hub_rows(source: str, seed: int, splits: Sequence[str] = TO_LEARN) -> Iterator[dict[str, Any]]:
    """Rows of a Hub dataset ("owner/name", "owner/name:config" or "owner/name:config:split"), streamed and shuffled by
    buffer. Where no split is named it is the first of `splits` that there is, else the dataset's first."""
    import datasets

    name, config, split, *_ = [*source.split(":"), "", ""]
    try:
        commit = _commit_of(source) if is_on_hub(source) else None
        if not split:
            available = datasets.get_dataset_split_names(name, config or None, revision=commit)
            split = next((name for name in splits if name in available), available[0])
        rows = datasets.load_dataset(name, config or None, split=split, streaming=True, revision=commit)
        yield from rows.shuffle(seed=seed, buffer_size=1000)
    except (*network_errors(), ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise CalibrationError(
            f"The Hub dataset {source} could not be read ({type(error).__name__}).",
            "Check its name and the network, or give --calib a folder of images or a .jsonl file and --calib-text a "
            "text file.",
        ) from None


def is_on_hub(source: str) -> bool:
    return not _is_local(source) and not _is_local(source.split(":")[0])


@functools.cache
def _commit_of(source: str) -> str:
    """The newest commit of a Hub dataset, the same for as long as this process runs. Raises OSError."""
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(source.split(":")[0]).sha)


def samples_from_rows(rows: Iterable[dict[str, Any]], count: int, cache: Path) -> Iterator[Sample]:
    """Yield samples from rows with an image column and a question; images are kept in `cache`, named by their
    content."""
    for row in itertools.islice(rows, count):
        image: Any = next((row[k] for k in ("image", "images") if row.get(k) is not None), None)
        image = image[0] if isinstance(image, list) and image else image
        prompt = next((row[k] for k in ("question", "prompt", "query") if isinstance(row.get(k), str)), FOLDER_PROMPT)
        answers = next((row[k] for k in ("answers", "direct_answers", "answer", "label") if row.get(k)), None)
        listed = answers if isinstance(answers, list) else [answers]
        texts = (a.get("answer") if isinstance(a, dict) else a for a in listed)  # VQAv2 has a record for each answer
        given = tuple(text for text in texts if isinstance(text, str))
        if image is None or not hasattr(image, "save"):
            raise CalibrationError(
                "The dataset's rows have no image column.", "Choose a dataset with `image` and `question` columns."
            )
        cache.mkdir(parents=True, exist_ok=True)
        pixels = image.convert("RGB").tobytes()
        name = hashlib.sha256(f"{image.size}".encode() + pixels).hexdigest()[:24]
        path = cache / f"{name}.png"
        if not path.exists():
            image.convert("RGB").save(path)
        yield Sample(prompt, path, given)


def _read_text(source: str, n_characters: int) -> str:
    path = Path(source).expanduser()
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(n_characters)
    elif "/" in source and not source.startswith((".", "/", "~")):
        text = ""
        for row in _hub_rows(source, 0):
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
