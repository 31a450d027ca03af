"""Decides which pixels of its images the calibration pass sees: those of the checkpoint's own processor, or those that
libmtmd makes of them where the file is used.

Images that are too large for libmtmd are calibrated at its token limit either way: their remaining tokens would be
calibrated for nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from luq_gguf.core.calibration_set import DEPLOYED, CalibrationData
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.hashing import asked_once, hash_of
from luq_gguf.core.images import upright_size
from luq_gguf.core.picture_geometry import Canvas, Size
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.picture_view import limit_sizes
from luq_gguf.llamacpp import tools
from luq_gguf.run.pictures import PictureGeometry, open_geometry

SMALL = 448 * 448  # pixels, of which no libmtmd's limit is reached: the lowest are 256 tokens of 28 x 28 or 32 x 32
RULES = 1  # of this file: another number makes profiles of other pixels stale


def key(*what: object) -> list[object]:
    """Return the part of a profile's key that images have which the processor does not see as they are."""
    return [*what, RULES, tools.pin()["version"]]


def sizes_beyond_limit(data: CalibrationData, checkpoint: Checkpoint) -> list[Size]:
    """Return the sizes of the samples' images that the processor would make more tokens of than libmtmd's limit. Both
    are asked once about a size."""
    with _Limit(checkpoint) as limit:
        return [size for size in _sizes(data).values() if limit.is_below(size)]


def shown(data: CalibrationData, checkpoint: Checkpoint, pixels: str) -> CalibrationData:
    """Return the data with the canvases that their images are shown on. Their `pixels` are those of the processor where
    it cannot be shown what libmtmd makes of the images, as of tiles. Raises CheckpointError and RunnerError."""
    sizes = _sizes(data)
    if pixels == DEPLOYED:
        with open_geometry(checkpoint) as geometry:
            canvases = _deployed(geometry, sizes)
        if canvases:
            return replace(data, pixels=DEPLOYED, canvases=canvases)
    with _Limit(checkpoint) as limit:
        canvases = {image: limit.canvas(size) for image, size in sizes.items() if limit.is_below(size)}
        return replace(data, canvases=canvases, image_limit=limit.most) if canvases else data


def _sizes(data: CalibrationData) -> dict[Path, Size]:
    return {image: upright_size(image) for sample in data.multimodal for image in sample.images}


def _deployed(geometry: PictureGeometry, sizes: dict[Path, Size]) -> dict[Path, Canvas]:
    """The canvases of all images, or none where the processor does not take one as it is."""
    try:
        canvases = {image: geometry.libmtmd.canvas(size, geometry.processor.resample) for image, size in sizes.items()}
        known = {image: canvas for image, canvas in canvases.items() if canvas}
        largest = max(known.values(), key=lambda canvas: canvas.size[0] * canvas.size[1], default=None)
        if largest is None or len(known) < len(sizes):
            return {}
        taken, expected = geometry.processor.view_unresized(largest.size), geometry.libmtmd.view(largest.size)
    except CheckpointError:  # of a processor that takes no such order, or returns what cannot be read
        return {}
    return known if (taken.size, taken.n_tokens) == (largest.size, expected.n_tokens) else {}


class _Limit:
    """A processor and libmtmd's token limit, opened with the first question, as a context manager."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stack = ExitStack()
        self._opened: PictureGeometry | None = None
        self._most: int | None = None
        self._question = hash_of(RULES, tools.pin()["version"], version("transformers"), checkpoint.outline)

    def __enter__(self) -> _Limit:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def _geometry(self) -> PictureGeometry:
        if self._opened is None:
            self._opened = self._stack.enter_context(open_geometry(self._checkpoint))
        return self._opened

    @property
    def most(self) -> int:
        """The most tokens of an image; without a limit of a dynamic size, 0."""
        if self._most is None:
            limits = self._geometry.libmtmd.limits(limit_sizes())
            self._most = limits.most if limits else 0
        return self._most

    def is_below(self, size: Size) -> bool:
        """Return whether the processor makes more tokens of an image in one piece than libmtmd's limit; what is known
        of a size is kept."""
        if size[0] * size[1] <= SMALL:
            return False
        about, words = self._question, f"{size[0]} x {size[1]}"
        is_within = lambda: not asked_once(f"beyond the limit {about}", words, lambda: self._ask(size))  # noqa: E731
        return not asked_once(f"within the limit {about}", words, is_within)

    def _ask(self, size: Size) -> bool:
        try:
            views = self._geometry.views(size)
        except CheckpointError:  # what this processor returns does not say how many
            return False
        if views.processor.n_pieces > 1 or views.processor.n_tokens <= views.libmtmd.n_tokens:
            return False
        return 0 < self.most < views.processor.n_tokens

    def canvas(self, size: Size) -> Canvas:
        """Return an image of a size that exceeds the limit as the processor is shown it: resized to the size that
        libmtmd resizes it to, without bars."""
        resized = self._geometry.libmtmd.view(size).size
        return Canvas(resized, resized, self._geometry.processor.resample)
