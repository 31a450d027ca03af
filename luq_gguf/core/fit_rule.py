"""How a processor resizes pictures, as a rule that a few lines of Python can follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luq_gguf.core.picture_geometry import LimitOptions, Size


@dataclass(frozen=True)
class FitRule:
    """A processor's rule for pictures in one piece, resized with the filter that PIL.Image.Resampling calls `filter`.

    With `factor`, both sides become multiples of it, and the area stays between `least` and `most` pixels, as in
    transformers' smart_resize. Otherwise every picture becomes `width` x `height`: stretched, or with `crops`, where
    both are the same, resized until the shorter side fits, and cropped at the center.
    """

    filter: str
    factor: int | None = None
    least: int = 0
    most: int = 0
    width: int = 0
    height: int = 0
    crops: bool = False

    def content(self, picture: Size) -> Size:
        """Return the size to which a picture of a size is resized, before edges are cut off."""
        width, height = picture
        if self.factor:
            return self._aligned(width, height, self.factor)
        if not self.crops:
            return self.width, self.height
        side, shorter = self.width, min(picture)
        return int(side * width / shorter), int(side * height / shorter)

    def _aligned(self, width: int, height: int, factor: int) -> Size:
        new = max(factor, round(width / factor) * factor), max(factor, round(height / factor) * factor)
        if new[0] * new[1] > self.most:
            scale = math.sqrt(width * height / self.most)
            return (
                max(factor, math.floor(width / scale / factor) * factor),
                max(factor, math.floor(height / scale / factor) * factor),
            )
        if new[0] * new[1] < self.least:
            scale = math.sqrt(self.least / (width * height))
            return math.ceil(width * scale / factor) * factor, math.ceil(height * scale / factor) * factor
        return new

    def limits_of(self, options: LimitOptions) -> LimitOptions:
        """Return the options that are given with this rule's exact numbers of tokens."""
        if not self.factor:
            return options
        least, most = math.ceil(self.least / self.factor**2), self.most // self.factor**2
        return LimitOptions(
            None if options.image_min_tokens is None else least, None if options.image_max_tokens is None else most
        )

    @property
    def program(self) -> str:
        """Python, with Pillow alone, that does this to a picture file."""
        filter_name = f"Image.Resampling.{self.filter}"
        lines = ["from PIL import Image, ImageOps", ""]
        lines += ['picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")']
        if self.factor:
            lines[:0] = ["import math", ""]
            lines += [
                f"factor, least, most = {self.factor}, {self.least}, {self.most}  # pixels: steps of a side, the area",
                "area = picture.width * picture.height",
                "size = [max(factor, round(side / factor) * factor) for side in picture.size]",
                "if math.prod(size) > most:",
                "    scale = math.sqrt(area / most)",
                "    size = [max(factor, math.floor(side / scale / factor) * factor) for side in picture.size]",
                "elif math.prod(size) < least:",
                "    scale = math.sqrt(least / area)",
                "    size = [math.ceil(side * scale / factor) * factor for side in picture.size]",
                f"picture = picture.resize(size, {filter_name})",
            ]
        elif self.crops:
            lines += [
                f"side = {self.width}  # pixels",
                "size = [int(side * pixels / min(picture.size)) for pixels in picture.size]",
                "left, top = (size[0] - side) // 2, (size[1] - side) // 2",
                f"picture = picture.resize(size, {filter_name}).crop((left, top, left + side, top + side))",
            ]
        else:
            lines += [f"picture = picture.resize(({self.width}, {self.height}), {filter_name})"]
        return "\n".join([*lines, 'picture.save("fitted.png")'])
