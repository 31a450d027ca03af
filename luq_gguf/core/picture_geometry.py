"""Frozen values that say what a picture becomes before a model computes anything of it: in the checkpoint's own
processor, and in libmtmd."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # width and height in pixels

UNCHANGED, RESIZED, PADDED, CROPPED, TILED = "unchanged", "resized", "padded", "cropped", "tiled"


@dataclass(frozen=True)
class PictureView:
    """What the vision half computes of a picture: `width` x `height` pixels, in tiles the size of one of them, which
    become `n_tokens` tokens in all.

    `how` is what was done to the picture: unchanged, resized (perhaps with another aspect ratio), padded, cropped, or
    tiled, into `n_pieces`. `content` is the size to which the whole picture was resized, before bars were added or
    edges were cut off.
    """

    width: int
    height: int
    n_tokens: int
    how: str
    content: Size
    n_pieces: int = 1

    @classmethod
    def of(cls, picture: Size, pieces: tuple[Size, ...], n_tokens: int, content: Size, *, pads: bool) -> PictureView:
        """Return the view of a picture of that size of which these pieces are computed, each of that size in pixels.
        With `pads`, what `content` does not fill is padding."""
        (width, height), n_pieces = pieces[0], len(pieces)
        if n_pieces > 1:
            how = TILED
        elif pads and content != (width, height):
            how = PADDED
        elif content != (width, height):
            how = CROPPED
        else:
            how = UNCHANGED if picture == content else RESIZED
        return cls(width, height, n_tokens, how, content, n_pieces)

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    def to_json(self) -> dict[str, Any]:
        """Return the object that JSON has of it."""
        content = {"width": self.content[0], "height": self.content[1]}
        return {
            "width": self.width,
            "height": self.height,
            "tokens": self.n_tokens,
            "how": self.how,
            "content": content,
            "pieces": self.n_pieces,
        }


@dataclass(frozen=True)
class PictureViews:
    """What the processor and libmtmd make of a picture of `size`."""

    size: Size
    processor: PictureView
    libmtmd: PictureView

    @property
    def agree(self) -> bool:
        """Whether both compute the same pixels, as far as sizes tell. Bars of the same size may differ: in their color,
        and in whether they were added before the picture was resized."""
        return self.processor == self.libmtmd and self.processor.how != PADDED

    def to_json(self) -> dict[str, Any]:
        """Return the object that JSON has of it."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "processor": self.processor.to_json(),
            "libmtmd": self.libmtmd.to_json(),
            "agree": self.agree,
        }


@dataclass(frozen=True)
class Canvas:
    """What a processor is shown in place of a picture: the picture, resized to `content` with the filter `resample` (as
    PIL.Image.Resampling names it), in the middle of `size` pixels of the color `bars`."""

    size: Size
    content: Size
    resample: str
    bars: tuple[int, int, int] = (0, 0, 0)

    def draw(self, picture: Image) -> Image:
        """Return the canvas with an RGB picture on it."""
        from PIL import Image

        resized = picture
        if picture.size != self.content:
            resized = picture.resize(self.content, Image.Resampling[self.resample])
        if self.content == self.size:
            return resized
        canvas = Image.new("RGB", self.size, self.bars)
        corner = [(side - own) // 2 for side, own in zip(self.size, self.content, strict=True)]
        canvas.paste(resized, (corner[0], corner[1]))
        return canvas


@dataclass(frozen=True)
class TokenLimits:
    """The fewest and the most tokens that a picture becomes, of any size."""

    least: int
    most: int


@dataclass(frozen=True)
class LimitOptions:
    """What llama.cpp's tools must be told for the processor's limits; None where both sides have the same, or where
    the size is not dynamic."""

    image_min_tokens: int | None = None
    image_max_tokens: int | None = None

    @classmethod
    def of(cls, processor: TokenLimits | None, libmtmd: TokenLimits | None) -> LimitOptions:
        """Return the options that bring libmtmd from its own limits to the processor's. Nothing without both."""
        if processor is None or libmtmd is None:
            return cls()
        least = processor.least if processor.least != libmtmd.least else None
        return cls(least, processor.most if processor.most != libmtmd.most else None)

    @property
    def pair(self) -> tuple[int | None, int | None]:
        """Both numbers."""
        return self.image_min_tokens, self.image_max_tokens

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return them as llama.cpp's command lines take them."""
        given = (("--image-min-tokens", self.image_min_tokens), ("--image-max-tokens", self.image_max_tokens))
        return tuple(part for name, number in given if number is not None for part in (name, str(number)))

    @classmethod
    def of_all(cls, options: Iterable[LimitOptions]) -> LimitOptions:
        """Return what does for all pictures at once: the lowest minimum and the highest maximum."""
        listed = tuple(options)
        least = [option.image_min_tokens for option in listed if option.image_min_tokens is not None]
        most = [option.image_max_tokens for option in listed if option.image_max_tokens is not None]
        return cls(min(least, default=None), max(most, default=None))

    def to_json(self) -> dict[str, int | None]:
        """Return the object that JSON has of it."""
        return {"image_min_tokens": self.image_min_tokens, "image_max_tokens": self.image_max_tokens}

    def __bool__(self) -> bool:
        return bool(self.arguments)


@dataclass(frozen=True)
class FittedPicture:
    """A picture file and the one that was written of it: of that file libmtmd makes what the processor makes of the
    picture, if llama.cpp's tools are given `needed`. `is_changed`: it has other pixels than the picture."""

    picture: Path
    written: Path
    views: PictureViews
    is_changed: bool
    needed: LimitOptions

    def to_json(self) -> dict[str, Any]:
        """Return the object that JSON has of it."""
        files = {"picture": str(self.picture), "fitted": str(self.written), "changed": self.is_changed}
        return files | self.views.to_json() | {"needed": self.needed.to_json()}


def bars(picture: Size, canvas: Size) -> Size:
    """Return the size of a picture that was scaled into a canvas without a change of its aspect ratio, as libmtmd does
    it in single precision (img_tool::resize with PAD_CEIL, tools/mtmd/mtmd-image.cpp): the rest are bars."""
    import numpy as np

    scale = min(np.float32(side) / np.float32(own) for side, own in zip(canvas, picture, strict=True))
    sides = (min(int(np.ceil(np.float32(own) * scale)), side) for own, side in zip(picture, canvas, strict=True))
    width, height = sides
    return width, height
