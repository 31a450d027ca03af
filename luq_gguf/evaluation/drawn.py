"""Two drawn pictures with questions, for measurements that need a picture where nobody has given any."""

from __future__ import annotations

from pathlib import Path

from luq_gguf.core.types import Sample

SIDE = 448  # pixels, a multiple of 14, 16, 28 and 32: the usual processors do not resize such a square by a fraction
WIDE = (600, 400)  # pixels of the other one, which many processors stretch and libmtmd pads
_QUESTIONS = (
    "What is the color of the shape in the picture? Is it a circle, a triangle or a rectangle? Answer with one word.",
    "Is there a blue triangle in the picture, or is it a shape of another color? Describe it in a short sentence.",
)


def samples(folder: Path) -> tuple[Sample, Sample]:
    """Draw a shape on each of two pictures, as easy-VQA has them, and return them with a question each. The first is a
    square, and the second is not."""
    from PIL import Image, ImageDraw

    circle, triangle = Image.new("RGB", (SIDE, SIDE), "#c8e6c9"), Image.new("RGB", WIDE, "#ffe0b2")
    ImageDraw.Draw(circle).ellipse((120, 90, 330, 300), fill="#d32f2f")
    ImageDraw.Draw(triangle).polygon(((150, 360), (290, 130), (390, 350)), fill="#1565c0")
    paths = (folder / "circle.png", folder / "triangle.png")
    for picture, path in zip((circle, triangle), paths, strict=True):
        picture.save(path)
    first, second = (Sample(question, (path,)) for question, path in zip(_QUESTIONS, paths, strict=True))
    return first, second


def questions() -> tuple[Sample, Sample]:
    """Return the same questions without pictures, for models that read text only."""
    first, second = (Sample(question) for question in _QUESTIONS)
    return first, second
