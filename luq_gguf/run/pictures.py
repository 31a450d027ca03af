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

from luq_gguf.core import atomic, images
from luq_gguf.core.errors import CheckpointError, PictureError
from luq_gguf.core.picture_geometry import RESIZED, FittedPicture, LimitOptions, PictureViews, Size
from luq_gguf.core.shown_pictures import EXAMPLE, ShownPictures
from luq_gguf.core.types import RunOptions
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.picture_view import ProcessorEye, limit_sizes
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.gguf import header_only, mmproj
from luq_gguf.llamacpp.picture_view import LibmtmdEye
from luq_gguf.run import preflight_cache
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import model_of

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
        if not self.changes(picture.size):
            return picture
        made = self.processor.fitted(picture)
        if self.libmtmd.view(made.size).n_pieces != self.processor.view(picture.size).n_pieces:
            raise CheckpointError(
                f"llama.cpp cuts a picture of {made.width} x {made.height} pixels into tiles, which this model's own "
                "processor does not do.",
                "Give llama.cpp the picture as it is.",
            )
        return made

    def needed(self, size: Size) -> LimitOptions:
        """Return what llama.cpp's tools must be told so that libmtmd takes a fitted picture of a size as it is."""
        expected = self.processor.view(size)
        seen = self.libmtmd.view(expected.size if self.changes(size) else size)
        if seen.n_tokens < expected.n_tokens:
            return LimitOptions(image_max_tokens=expected.n_tokens)
        return LimitOptions(image_min_tokens=expected.n_tokens if seen.n_tokens > expected.n_tokens else None)

    def write(self, picture: Path, place: Path) -> FittedPicture:
        """Write a picture file's fitted picture as a PNG. Raises PictureError."""
        image = read_picture(picture)
        try:
            made = self.fitted(image)
        except CheckpointError as error:
            raise PictureError(f"{picture.name} cannot be fitted: {error.message}", error.hint) from None
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic.whole(place) as part:
            made.save(part, format="PNG")
        return FittedPicture(picture, place, self.views(image.size), made is not image, self.needed(image.size))

    def changes(self, size: Size) -> bool:
        """Return whether a picture of a size is another one once it is fitted."""
        views = self.views(size)
        return not views.agree or views.processor.how == RESIZED


def read_picture(picture: Path) -> Image:
    """Read an image file as transformers' `load_image` does: upright and in RGB. Raises PictureError."""
    try:
        return images.open_rgb(picture)
    except ValueError as error:
        raise PictureError(f"{error}.", "Give an image file, such as PNG or JPEG.") from None


def run_checkpoint(run: RunFolder, options: RunOptions = RunOptions()) -> Checkpoint:
    """Open the checkpoint that a run folder is for. Raises RunFolderError and CheckpointError."""
    record = run.read()
    return checkpoints.open_checkpoint(
        model_of(run),
        trust_remote_code=options.trust_remote_code,
        revision=record.get("revision"),
        subfolder=record.get("subfolder"),
    )


def shown_pictures(checkpoint: Checkpoint, files: tuple[Path, Path] | None = None) -> ShownPictures:
    """Return how llama.cpp shows pictures to a checkpoint's model; `files` are as `open_geometry` takes them. Raises
    CheckpointError and RunnerError."""
    with open_geometry(checkpoint, files) as geometry:
        theirs = geometry.processor.limits()
        limits = LimitOptions.of(theirs, geometry.libmtmd.limits(limit_sizes()) if theirs else None)
        rule = geometry.processor.rule()
        return ShownPictures(rule.limits_of(limits) if rule else limits, geometry.views(EXAMPLE), rule)


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
