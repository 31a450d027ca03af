"""What a checkpoint's own processor makes of a picture: it is asked with a white one, and its answers are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luq_gguf.core import process_state
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.fit_rule import FitRule
from luq_gguf.core.picture_geometry import CROPPED, PADDED, TILED, PictureView, Size, TokenLimits
from luq_gguf.core.types import Sample
from luq_gguf.hf import prompts, sight
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import load_processor, refusals

if TYPE_CHECKING:
    from PIL.Image import Image

_SHAPES = ((640, 480), (150, 100), (100, 150), (1000, 30), (30, 41), (1600, 1200))  # that a rule is tried on
FAR = 1 << 14  # pixels of the longer side of a picture that is beyond all limits; no pixels are made for it
RATIOS = 400  # how many aspect ratios the limits are looked for in


def limit_sizes() -> Iterator[tuple[bool, Size]]:
    """Yield sizes beyond all limits, and whether it is the upper one that they are beyond: of many aspect ratios, for a
    square alone seldom has as many tokens as a limit allows."""
    for number in range(RATIOS):
        short = 1 / (1 + 7 * number / RATIOS)
        yield True, (FAR, round(FAR * short))
        yield False, (8, max(1, round(8 * short)))


class ProcessorEye:
    """A checkpoint's processor, loaded once; what it makes of a size is asked once. Raises CheckpointError where the
    processor cannot be used, and for a picture that it rejects."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._views: dict[Size, PictureView] = {}

    @cached_property
    def _processor(self) -> Any:
        folder, trust = self._checkpoint.folder, self._checkpoint.trust_remote_code
        with refusals(self._checkpoint):
            processor = load_processor(folder, trust_remote_code=trust)
        if getattr(processor, "image_processor", None) is None:
            raise CheckpointError(
                f"{self._checkpoint.name} has no processor for pictures.", "Give a checkpoint that reads pictures."
            )
        return processor

    @cached_property
    def _stand_ins(self) -> set[int]:
        from transformers import AutoConfig

        folder, trust = self._checkpoint.folder, self._checkpoint.trust_remote_code
        with process_state.TORCH, refusals(self._checkpoint):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        return sight.named_image_ids(config, self._processor)

    @cached_property
    def _prompt(self) -> str:
        with refusals(self._checkpoint):
            return prompts.chat_text(self._processor, Sample(prompts.QUESTION, (Path("picture"),)))

    def view(self, size: Size) -> PictureView:
        """Return what the processor makes of a picture of a size."""
        if size not in self._views:
            self._views[size] = self._ask(size)
        return self._views[size]

    def view_unresized(self, size: Size) -> PictureView:
        """Return what the processor makes of a picture of a size when it is told not to resize it."""
        return self._ask(size, do_resize=False)

    def _ask(self, size: Size, **more: bool) -> PictureView:
        from PIL import Image

        white = Image.new("RGB", size, "white")
        processor, text = self._processor, self._prompt
        options = {"return_tensors": "pt"} | prompts.token_options(processor, text) | more
        try:
            with process_state.TORCH:
                outputs = dict(processor(images=[[white]], text=[text], **options))
        except Exception as error:  # each family's processor has its own limits, and errors of its own
            raise CheckpointError(
                f"The processor of {self._checkpoint.name} rejects a picture of {size[0]} x {size[1]} pixels: "
                f"{(str(error).strip().splitlines() or [type(error).__name__])[0]}",
                "Give another picture, or resize this one.",
            ) from None
        pieces = self._pieces(outputs)
        content = pieces[0]
        is_padded = self._is_padded(outputs)
        if len(pieces) == 1 and not is_padded:
            content = self._before_cropping(white, pieces[0])
        elif len(pieces) == 1:
            content = _scaled_into(size, pieces[0])
        return PictureView.of(
            size, pieces, self._count(outputs["input_ids"][0].tolist(), pieces), content, pads=is_padded
        )

    def _is_padded(self, outputs: dict[str, Any]) -> bool:
        """Whether what is made of a white picture has values besides those of white: one for each way in which a
        channel is normalized."""
        images, n_white = self._processor.image_processor, 3
        scales = [getattr(images, name, None) for name in ("image_mean", "image_std")]
        # Gemma 4's patches are followed by empty ones, which are no bars.
        if "image_position_ids" not in outputs and all(isinstance(scale, list | tuple) for scale in scales):
            n_white = len(set(zip(*scales, strict=True)))
        return len(np.unique(np.round(outputs["pixel_values"].float().numpy(), 3))) > n_white

    def _pieces(self, outputs: dict[str, Any]) -> tuple[Size, ...]:
        """The sizes in pixels of what the vision half computes: read from the grid of patches, or from the pixels'
        shape."""
        patch = getattr(self._processor.image_processor, "patch_size", None)
        for name in ("image_grid_thw", "image_grid_hws", "spatial_shapes"):
            if name in outputs and isinstance(patch, int):
                return tuple((int(grid[-1]) * patch, int(grid[-2]) * patch) for grid in outputs[name].tolist())
        if "image_position_ids" in outputs and isinstance(patch, int):  # Gemma 4: column and row of each patch, or -1
            last = outputs["image_position_ids"].amax(dim=1).tolist()
            return tuple(((int(column) + 1) * patch, (int(row) + 1) * patch) for column, row in last)
        shape = tuple(outputs["pixel_values"].shape) if "pixel_values" in outputs else ()
        if len(shape) in (4, 5) and shape[-3] == 3 and shape[-2] != patch:  # else a row of patches
            return ((shape[-1], shape[-2]),) * int(np.prod(shape[:-3]))
        raise CheckpointError(
            f"What the processor of {self._checkpoint.name} returns does not say how large a picture becomes.",
            "Leave out what asks for it: luq-gguf cannot read this family's pictures yet.",
        )

    def _count(self, ids: list[int], pieces: tuple[Size, ...]) -> int:
        """Tokens of a picture; of one in one piece those between the first and the last, as libmtmd counts separators
        of rows."""
        at = [number for number, token in enumerate(ids) if token in self._stand_ins]
        if not at:
            raise CheckpointError(
                f"transformers puts no tokens of a picture into a prompt of {self._checkpoint.name}.",
                "Check that chat template, tokenizer and preprocessor_config.json are this model's.",
            )
        return at[-1] + 1 - at[0] if len(pieces) == 1 else len(at)

    def _before_cropping(self, picture: Image, cropped: Size) -> Size:
        """The size to which a picture is resized before edges are cut off."""
        if not getattr(self._processor.image_processor, "do_center_crop", False):
            return cropped
        with process_state.TORCH:
            outputs = self._processor.image_processor(images=[picture], do_center_crop=False, return_tensors="pt")
        return self._pieces(dict(outputs))[0]

    def fitted(self, picture: Image) -> Image:
        """Return an RGB picture as the processor computes it, before its values are scaled: resized with its filter,
        cropped, or with its bars. Raises CheckpointError where that is not a picture, as in tiles."""
        from PIL import Image

        view = self.view(picture.size)
        padded = self._padded(picture, view) if view.how == PADDED else None
        if padded is not None:
            return padded
        if view.how in (TILED, PADDED):
            raise CheckpointError(
                f"The processor of {self._checkpoint.name} has a picture of {picture.width} x {picture.height} pixels "
                f"{view.how}, so no other picture can stand for what it makes of it.",
                "Give llama.cpp the picture as it is.",
            )
        resized = picture
        if view.content != picture.size:
            resized = picture.resize(view.content, Image.Resampling(int(self._processor.image_processor.resample)))
        if view.how != CROPPED:
            return resized
        left, top = (resized.width - view.width) // 2, (resized.height - view.height) // 2
        return resized.crop((left, top, left + view.width, top + view.height))

    def _padded(self, picture: Image, view: PictureView) -> Image | None:
        """The picture with the processor's bars, from its values, which are scaled back; None where these are patches
        and not a picture."""
        from PIL import Image

        images = self._processor.image_processor
        with process_state.TORCH:
            values = images(images=[picture], return_tensors="pt")["pixel_values"].float().numpy()
        if values.shape[-3:] != (3, view.height, view.width) or values.size != 3 * view.height * view.width:
            return None
        values = values.reshape(3, view.height, view.width)
        if getattr(images, "do_normalize", False):
            mean, deviation = (np.array(getattr(images, name)) for name in ("image_mean", "image_std"))
            values = values * deviation[:, None, None] + mean[:, None, None]
        if getattr(images, "do_rescale", False):
            values = values / images.rescale_factor
        pixels = np.clip(np.round(values), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels.transpose(1, 2, 0))

    @property
    def resample(self) -> str:
        """The name of the filter that pictures are resized with, as PIL.Image.Resampling has it."""
        from PIL import Image

        return Image.Resampling(int(self._processor.image_processor.resample)).name

    def rule(self) -> FitRule | None:
        """Return the rule that pictures are resized by; None where none is known that gives the processor's own sizes
        for pictures of several shapes."""
        views = {size: self.view(size) for size in _SHAPES}
        if any(view.how in (TILED, PADDED) for view in views.values()):
            return None
        for rule in self._rules(views[_SHAPES[0]]):
            if all(rule.content(size) == view.content for size, view in views.items()):
                return rule
        return None

    def _rules(self, view: PictureView) -> Iterator[FitRule]:
        images = self._processor.image_processor
        patch, merge, size = (getattr(images, name, None) for name in ("patch_size", "merge_size", "size"))
        if isinstance(patch, int) and isinstance(merge, int):
            limits = (getattr(size, "shortest_edge", None), getattr(size, "longest_edge", None))
            for least, most in (limits, (getattr(images, "min_pixels", None), getattr(images, "max_pixels", None))):
                if isinstance(least, int) and isinstance(most, int):
                    for frames in (1, getattr(images, "temporal_patch_size", None) or 1):  # some count a picture twice
                        yield FitRule(self.resample, patch * merge, least // frames, most // frames)
            return
        yield FitRule(self.resample, width=view.width, height=view.height)
        if view.width == view.height:
            yield FitRule(self.resample, width=view.width, height=view.height, crops=True)

    def limits(self) -> TokenLimits | None:
        """Return the fewest and the most tokens of a picture; None where its size does not decide how many there
        are, or the processor cannot be asked without pixels. Sizes are tried, so the most may be a few too low."""
        images = self._processor.image_processor
        count, merge = getattr(images, "get_number_of_image_patches", None), getattr(images, "merge_size", None)
        if count is None or not isinstance(merge, int):
            return None
        numbers: dict[bool, list[int]] = {True: [], False: []}
        with refusals(self._checkpoint):
            for is_large, (width, height) in limit_sizes():
                n_patches = count(height, width, {})
                if not isinstance(n_patches, int):  # a family's own meaning, such as both sides of a grid
                    return None
                numbers[is_large].append(n_patches // merge**2)
        return TokenLimits(min(numbers[False]), max(numbers[True]))


def _scaled_into(picture: Size, canvas: Size) -> Size:
    scale = min(canvas[0] / picture[0], canvas[1] / picture[1])
    return round(picture[0] * scale), round(picture[1] * scale)
