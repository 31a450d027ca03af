"""What a checkpoint's processor and libmtmd make of pictures, and pictures that are fitted so that both make the same
of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luq_gguf.core import atomic
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.picture_geometry import RESIZED, LimitOptions, PictureViews, Size
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.picture_view import ProcessorEye, limit_sizes
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.gguf import header_only, mmproj
from luq_gguf.llamacpp.picture_view import LibmtmdEye
from luq_gguf.run import preflight_cache

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class PictureGeometry:
    """A processor and libmtmd, both loaded, which are asked about pictures."""

    processor: ProcessorEye
    libmtmd: LibmtmdEye

    def views(self, size: Size) -> PictureViews:
        """Return what both make of a picture of a size. Raises CheckpointError where the processor rejects it."""
        return PictureViews(size, self.processor.view(size), self.libmtmd.view(size))

    def fitted(self, picture: Image) -> Image:
        """Return an RGB picture of which libmtmd makes what the processor makes of this one, given the token limits
        that `needed` tells; the same picture where both make the same of it. One that both resize alike is resized
        with the processor's filter. Raises CheckpointError where no picture can be that."""
        return self.processor.fitted(picture) if self._is_fitted(picture.size) else picture

    def needed(self, size: Size) -> LimitOptions:
        """Return what llama.cpp's tools must be told so that libmtmd takes a fitted picture of a size as it is."""
        expected = self.processor.view(size)
        seen = self.libmtmd.view(expected.size if self._is_fitted(size) else size)
        if seen.n_tokens < expected.n_tokens:
            return LimitOptions(image_max_tokens=expected.n_tokens)
        return LimitOptions(image_min_tokens=expected.n_tokens if seen.n_tokens > expected.n_tokens else None)

    def _is_fitted(self, size: Size) -> bool:
        views = self.views(size)
        return not views.agree or views.processor.how == RESIZED

    def limit_options(self) -> LimitOptions:
        """Return the token limits that bring libmtmd's to the processor's; none where both are the same or the size is
        not dynamic."""
        theirs = self.processor.limits()
        return LimitOptions.of(theirs, self.libmtmd.limits(limit_sizes()) if theirs else None)


@contextmanager
def open_geometry(
    checkpoint: Checkpoint,
    files: tuple[Path, Path] | None = None,
    image_tokens: tuple[int | None, int | None] = (None, None),
) -> Iterator[PictureGeometry]:
    """Load a checkpoint's processor, and libmtmd with a text model's file and its mmproj: those given, or else headers
    of those that would be made of the checkpoint. Raises CheckpointError and RunnerError."""
    if not checkpoint.has_vision:
        raise CheckpointError(f"{checkpoint.name} does not read pictures.", "Give a checkpoint with a vision half.")
    with tempfile.TemporaryDirectory() as folder:
        model, half = files or header_files(checkpoint, Path(folder))
        with LibmtmdEye(model, half, image_tokens) as libmtmd:
            yield PictureGeometry(ProcessorEye(checkpoint), libmtmd)


def header_files(checkpoint: Checkpoint, folder: Path) -> tuple[Path, Path]:
    """Write the headers of the text model's file and of the mmproj that would be made of a checkpoint; their weights
    are holes. Raises CheckpointError."""
    text, half = folder / "text.gguf", folder / "mmproj.gguf"
    with ThreadPoolExecutor() as pool:  # the converter takes a second or more for each
        written = pool.submit(_write_text, checkpoint, text)
        _write_vision(checkpoint, half)
        written.result()
    return text, half


def _write_text(checkpoint: Checkpoint, path: Path) -> None:
    llama = tools.find()
    if preflight_cache.restore(checkpoint, llama, path, path.with_suffix(".json")):
        return
    header, shown = path.with_name(f"text{atomic.SUFFIX}"), (checkpoint.name, checkpoint.view)
    options = checkpoint.converter_options
    tensors = converter.text_tensors(llama, checkpoint.folder, header, *shown, options=options)
    header_only.write(path, header, tensors)


def _write_vision(checkpoint: Checkpoint, path: Path) -> None:
    if llava.is_clip_llava(checkpoint):
        vision = llava.clip_vision(checkpoint)
        names = llava.vision_names(checkpoint, vision)
        shapes = {name: checkpoint.shapes[source] for source, name in names.items()}
        mmproj.write_header(path, checkpoint.name, vision, shapes)
        return
    header = path.with_name(f"vision{atomic.SUFFIX}")
    tensors = converter.vision_tensors(tools.find(), checkpoint.folder, header, checkpoint.name, checkpoint.view)
    header_only.write(path, header, tensors)
