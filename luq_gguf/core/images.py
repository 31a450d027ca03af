"""Reads images from untrusted sources: known formats only, bounded in size, with one kind of error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luq_gguf.core import process_state

if TYPE_CHECKING:
    from PIL.Image import Image

# Not all that Pillow knows: it hands EPS to Ghostscript, and looks at contents, whatever the file is called.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")


def open_rgb(path: Path) -> Image:
    """Return the first frame, decoded. Raises ValueError where the file is not such an image, is damaged, or has more
    pixels than Pillow allows (89 million: 256 MiB as RGB)."""
    from PIL import Image

    if "\0" in str(path) or not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is not a file")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # AVIF and JPEG 2000 are not in every build
    try:
        raised = process_state.warnings_filtered("error", Image.DecompressionBombWarning)
        with raised, Image.open(path, formats=formats) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders of damaged files raise whatever they trip over
        raise ValueError(f"{path.name} cannot be read: {type(error).__name__}") from None
