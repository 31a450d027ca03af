"""Defines the calibration set as a user asks for it, and the data that are read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from luq_gguf.core.picture_geometry import Canvas
from luq_gguf.core.types import Sample

PROCESSOR, DEPLOYED = "processor", "deployed"


@dataclass(frozen=True)
class CalibrationSet:
    """What to calibrate with: `samples` samples, of which a share `alpha` has images, drawn with `seed`.

    `images` is a folder of images, a .jsonl file or a Hub dataset id, `text` a text file or a Hub dataset id. Without
    `images` both are public datasets of the Hub; with `images` alone the text-only samples are its own prompts.
    `pixels` says how images are seen: as the model's own processor makes them ("processor"), though no larger than
    llama.cpp's token limit allows, or as llama.cpp will make them ("deployed").
    """

    images: str | Path | None = None
    text: str | Path | None = None
    alpha: float = 0.5
    samples: int = 128
    seed: int = 0
    pixels: str = PROCESSOR

    @property
    def sources(self) -> tuple[str | None, str | None]:
        """The images and the text as they were written."""
        images, text = (str(source) if source else None for source in (self.images, self.text))
        return images, text

    def for_text_only(self) -> CalibrationSet:
        """Return the set without images; where it names no text, that is the prompts and answers of `images`."""
        return replace(self, images=None if self.text else self.images, alpha=0.0, pixels=PROCESSOR)


@dataclass(frozen=True)
class CalibrationData:
    """What was read of a CalibrationSet and flows through the reference model: multimodal samples, and n_text text-only
    ones.

    The text-only ones are prompts without images (`text`), or chunks of a `document`. `lines` are those of the set that
    samples were made of, as they stand there. `image_source` and `text_source` name the sets; `revisions` has the
    commit of those from the Hub. `without_images`: images were asked for, and the set has text alone. `n_cut` samples
    were cut at `cut_at` tokens.

    `canvases` are shown to the processor in place of images, which are then not resized again where `pixels` is
    "deployed". With "processor" they are `n_limited` images that would have more tokens than `image_limit`, which is
    what llama.cpp allows.
    """

    multimodal: tuple[Sample, ...]
    text: tuple[Sample, ...]
    document: str | None
    n_text: int
    alpha: float
    seed: int
    sha256: str
    image_source: str | None = None
    text_source: str | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    lines: tuple[Sample, ...] = ()
    without_images: bool = False
    n_cut: int = 0
    cut_at: int = 0
    pixels: str = PROCESSOR
    canvases: Mapping[Path, Canvas] = field(default_factory=dict)
    image_limit: int = 0

    @property
    def n_limited(self) -> int:
        """How many samples have images that are calibrated at llama.cpp's token limit."""
        if self.pixels != PROCESSOR:
            return 0
        return sum(any(image in self.canvases for image in sample.images) for sample in self.multimodal)

    @property
    def treatment(self) -> list[object]:
        """What is shown in place of the images, as a part of keys; empty where it is the images alone."""
        if not self.canvases:
            return []
        return [self.pixels, [self.canvases.get(image) for sample in self.multimodal for image in sample.images]]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(name for name in (self.image_source, self.text_source) if name)
