"""Reads images from untrusted sources: known formats only, bounded in size, with one kind of error.

Calibration and evaluation read their images here, so both see the same pixels: those that transformers' `load_image`
gives (image_utils.py), with one exception that `to_rgb` explains.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luq_gguf.core import process_state
from luq_gguf.core.hashing import content_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Not all that Pillow knows: it hands EPS to Ghostscript, and looks at contents, whatever the file is called.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
PIXELS = 2  # what `to_rgb` makes of a file: another number makes measurements and profiles of other pixels stale
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_ORIENTATION, _ON_ITS_SIDE = 274, range(5, 9)  # EXIF's tag, and its values for pictures that are turned by 90 degrees


class ValueRangeError(ValueError):
    """An image's values are not those of pixels; the message continues the file's name."""


def open_rgb(path: Path) -> Image:
    """Return the first frame, upright, as 8-bit RGB. Raises ValueError where the file is not such an image, is damaged,
    or has more pixels than Pillow allows (89 million: 256 MiB as RGB)."""
    from PIL import Image

    if "\0" in str(path) or not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is not a file")
    formats = _formats()
    try:
        ignored = process_state.warnings_filtered("ignore")  # of odd metadata, which the pixels do not depend on
        raised = process_state.warnings_filtered("error", Image.DecompressionBombWarning)
        with ignored, raised, Image.open(path, formats=formats) as picture:
            return to_rgb(picture)
    except ValueRangeError as error:
        raise ValueError(f"{path.name} {error}") from None
    except Exception as error:  # decoders of damaged files raise whatever they trip over
        raise ValueError(f"{path.name} cannot be read: {type(error).__name__}") from None


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF and JPEG 2000 are not in every build


def to_rgb(picture: Image) -> Image:
    """Return an opened image's first frame as transformers' `load_image` does: turned as its EXIF orientation says, in
    RGB without its transparency and its color profile.

    Of 16-bit grey the upper 8 bits are kept. `load_image` would cut everything above 255 off, which leaves a white
    picture; Pillow itself keeps the upper bits of 16-bit color, as stb_image does of both. Raises ValueRangeError for
    32-bit values that are not those of pixels.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    deep = upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format in ("PNG", "PPM"))
    if deep:
        values = np.asarray(upright).astype(np.int64) >> _spare_bits(picture)
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if upright.mode in ("I", "F"):
        _check_range(np.asarray(upright))
    return upright.convert("RGB")


def _spare_bits(picture: Image) -> int:
    """How many bits of a grey value are beyond 8: some cameras' TIFF has 12."""
    tags = getattr(picture, "tag_v2", None) or {}
    given = tags.get(_BITS_PER_SAMPLE, 16)
    n_bits = given[0] if isinstance(given, tuple) and given else given
    return n_bits - 8 if n_bits in range(9, 17) else 8


def _check_range(values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and (high == 0 or 1 < high <= 255)):  # also where one of them is NaN
        raise ValueRangeError(f"has 32-bit values from {low:g} to {high:g}, not pixels from 0 to 255")


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of what `open_rgb` returns, for a file that it has read before: mostly without its
    pixels."""
    from PIL import Image

    with process_state.warnings_filtered("ignore"), Image.open(path, formats=_formats()) as picture:
        width, height = picture.size
        lies = picture.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
        if not lies or picture.format != "TIFF":  # Pillow turns some of these when it reads their pixels
            return (height, width) if lies else (width, height)
    return open_rgb(path).size


def content_key(path: Path) -> str:
    """Return a hash of an image file that also changes with how it is read. Raises OSError."""
    return f"{PIXELS}:{content_of(path)}"
