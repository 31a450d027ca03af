"""Show pictures of several sizes to the trained models and to a small random checkpoint of every family that reads
pictures (tests/support/families), compare llama.cpp with transformers, and write the table in docs/pictures.md.

scripts/check-pictures                             # all
scripts/check-pictures tiny-qwen2.5-vl qwen3-vl    # these alone: other rows stay as they are
scripts/check-pictures --dry-run gemma-3           # only print

Families whose packages are missing keep the rows that they have: run them in an environment that has these. The exit
code is 1 where something fails, or where a fitted picture is not the same to both.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from written_table import DOCS, SUPPORT, Row, WrittenTable, status

sys.path.insert(0, str(SUPPORT))

from families import FAMILIES, Family
from families.llava import as_libmtmd_orders_clip
from family_figures import (
    LARGEST_FITTED,
    QUESTION,
    PictureGap,
    convert_16_bit,
    environment,
    measure,
    measure_gap,
    missing_packages,
    pictures_of,
)

from luq_gguf.core.errors import ConversionError, LuqError
from luq_gguf.core.picture_geometry import PictureView, Size
from luq_gguf.core.types import Sample
from luq_gguf.evaluation.against import N_CTX
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics.kld import kl_divergence
from luq_gguf.run.pictures import open_geometry
from luq_gguf.workflows import easy_vqa

MODELS = SUPPORT.parent / "models"
SIZES: tuple[Size, ...] = ((150, 100), (640, 480), (1000, 30), (1280, 720))
TABLE = WrittenTable(
    DOCS / "pictures.md",
    "check-pictures",
    ("model", "picture", "tokens, processor", "tokens, libmtmd", "KLD as is", "KLD fitted", "Q4_K_M"),
)
_TEXT = 256  # tokens that a question takes at most


@dataclass(frozen=True)
class Subject:
    """A trained model of tests/models, or a random family."""

    name: str
    family: Family | None = None

    @property
    def as_llama_cpp(self) -> Callable[[], AbstractContextManager[None]] | None:
        """What makes transformers compute as llama.cpp does, whatever the picture."""
        if self.family:
            return self.family.as_llama_cpp
        return as_libmtmd_orders_clip if "llava" in self.name else None

    def build(self, folder: Path) -> Path:
        return self.family.build(folder / self.name) if self.family else MODELS / self.name

    def files(self, model: Path, folder: Path) -> tuple[Path, Path]:
        """Convert it: the 16-bit file and the mmproj."""
        if self.family is None:
            f16, mmproj = convert_16_bit(model, folder / "run")
        else:
            with environment(self.family, folder):
                f16, mmproj = convert_16_bit(model, folder / "run")
        assert mmproj
        return f16, mmproj

    def samples(self, size: Size, folder: Path) -> list[Sample]:
        """Questions with pictures of one size: what a trained model learned about, or else coloured blocks."""
        if self.family:
            return [Sample(QUESTION, (picture,)) for picture in pictures_of(size, folder, 2)]
        path = easy_vqa.write_set(folder / "easy-vqa", "test", 8)
        samples = []
        for number, row in enumerate(map(json.loads, path.read_text().splitlines())):
            place = folder / f"{size[0]}x{size[1]}-{number}.png"
            with Image.open(path.parent / row["image"]) as picture:
                picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(place)
            samples.append(Sample(row["prompt"], (place,)))
        return samples


SUBJECTS = (
    *(Subject(path.name) for path in sorted(MODELS.iterdir()) if path.is_dir()),
    *(Subject(family.name, family) for family in FAMILIES if family.image and not family.refused),
)


def rows_of(subject: Subject, folder: Path) -> Iterator[Row]:
    """Convert a model and show it a picture of each size."""
    try:
        model = subject.build(folder)
        f16, mmproj = subject.files(model, folder)
        q4 = folder / "Q4_K_M.gguf"
        command = [tools.find().tool("llama-quantize"), f16, q4, "Q4_K_M", "1"]
        child.run(command, child.Failure(ConversionError, "llama-quantize"))
        checkpoint, metadata = open_checkpoint(str(model)), reader.read(f16).metadata
        context = int(metadata[f"{metadata['general.architecture']}.context_length"])
        with open_geometry(checkpoint, (f16, mmproj)) as geometry:
            for size in SIZES:
                views = geometry.views(size)
                if max(views.processor.n_tokens, views.libmtmd.n_tokens) + _TEXT > min(context, N_CTX):
                    cells = (_cell(views.processor), _cell(views.libmtmd), "does not fit in the context", "", "")
                    yield Row((subject.name, _size(size), *cells))
                    continue
                samples = subject.samples(size, folder)
                gap = measure_gap(subject.as_llama_cpp, checkpoint, (f16, mmproj), geometry, samples, folder)
                largest = LARGEST_FITTED
                if subject.family and gap.fitted and gap.fitted > largest:
                    largest = max(largest, 3 * measure(subject.family, model, f16, mmproj, folder).kld)
                yield _row(subject.name, size, gap, _quantized(f16, q4, mmproj, samples, gap), largest)
    except Exception as error:  # the other models are tried all the same
        if not isinstance(error, LuqError):
            traceback.print_exc()
        reason = f"fails: {type(error).__name__}: {error}".replace(f"{folder}/", "")
        yield Row((subject.name, "", reason, "", "", "", ""), is_as_expected=False)


def _row(name: str, size: Size, gap: PictureGap, quantized: float, largest: float) -> Row:
    fitted = "cannot be fitted" if gap.fitted is None else _figure(gap.fitted)
    if gap.fitted_limits:
        fitted += f" with `{' '.join(gap.fitted_limits)}`"
    views = _cell(gap.views.processor), _cell(gap.views.libmtmd)
    is_mended = gap.fitted is None or gap.fitted <= largest
    return Row((name, _size(size), *views, _figure(gap.as_is), fitted, _figure(quantized)), is_mended)


def _figure(kld: float) -> str:
    return f"{kld:.1e}" if np.isfinite(kld) else "not finite in llama.cpp"


def _size(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _cell(view: PictureView) -> str:
    return f"{view.n_tokens} ({view.how})"


def _quantized(f16: Path, q4: Path, mmproj: Path, samples: list[Sample], gap: PictureGap) -> float:
    """The mean KLD of a quantized file from the 16-bit one behind the pictures as they are."""
    rows = []
    for file in (f16, q4):
        with LlamaClient(file, mmproj, n_ctx=N_CTX, threads=1) as client:
            rows.append([client.score(sample.conversation, sample.images).log_probabilities for sample in samples])
    behind = [pair.n_before for pair in gap.predictions]
    return float(np.concatenate([kl_divergence(a[n:], b[n:]) for a, b, n in zip(*rows, behind, strict=True)]).mean())


def main() -> int:
    arguments = TABLE.arguments([subject.name for subject in SUBJECTS])
    rows: dict[str, list[Row]] = {}
    for subject in SUBJECTS:
        if subject.name not in arguments.names or (subject.family and missing_packages(subject.family)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(subject, Path(folder)):
                print(row, flush=True)
                rows.setdefault(subject.name, []).append(row)
        if not arguments.dry_run:
            TABLE.write(rows, (Row((each.name, "", "not run", "", "", "", "")) for each in SUBJECTS))
    return status(rows, "docs/pictures.md")


if __name__ == "__main__":
    sys.exit(main())
