"""The processor of a vision-language checkpoint, without its video half.

Some families' processors insist on a video processor, which transformers has for torchvision only. luq-gguf never
reads video, so it loads a processor that knows images and text, and works where torchvision is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from luq_gguf.core import process_state
from luq_gguf.core.errors import CheckpointError, LuqError
from luq_gguf.core.hashing import hash_of
from luq_gguf.hf.checkpoint import Checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image


def images_and_text(processor_class: type) -> type:
    """Return the same processor class without a video processor."""
    if "video_processor" not in processor_class.get_attributes():  # type: ignore[attr-defined]
        return processor_class

    class ImagesAndText(processor_class):  # type: ignore[misc, valid-type]
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM's asks for these on every call

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return the parts to load and to save. What the parent passes on beyond them, last, is dropped."""
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            return super().from_args_and_dict(args, processor_dict, **kwargs | {"video_processor": None})

    ImagesAndText.__name__ = processor_class.__name__  # what save_pretrained writes
    return ImagesAndText


def load_processor(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the processor saved in a checkpoint folder, or its tokenizer where the model reads text only.

    An image processor whose class transformers no longer has is replaced by the one that it has for the model. Raises
    what transformers raises when a part is missing or unreadable.
    """
    with process_state.TORCH:
        from transformers import AutoConfig, AutoProcessor, AutoTokenizer
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if type(config) in PROCESSOR_MAPPING:
            processor_class = PROCESSOR_MAPPING[type(config)]
            without_video = images_and_text(processor_class)
            try:
                if without_video is not processor_class:
                    return without_video.from_pretrained(folder)  # type: ignore[attr-defined]
                return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
            except ValueError as error:
                if "Unrecognized image processor" not in str(error):
                    raise
                return without_video.from_pretrained(folder, config=config)  # type: ignore[attr-defined]
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


@dataclass
class PictureCheck:
    """Raises ValueError for an RGB picture that the checkpoint's image processor rejects, and CheckpointError where
    there is no usable processor. What it thinks of a size is asked once."""

    checkpoint: Checkpoint
    _accepted: set[tuple[int, int]] = field(default_factory=set)

    @cached_property
    def key(self) -> str:
        """The processor's files and the library that it belongs to."""
        return hash_of(self.checkpoint.outline, self.checkpoint.trust_remote_code, version("transformers"))

    @cached_property
    def _image_processor(self) -> Any:
        """Loaded with the first picture: not every set has one."""
        with refusals(self.checkpoint):
            folder, trust = self.checkpoint.folder, self.checkpoint.trust_remote_code
            return getattr(load_processor(folder, trust_remote_code=trust), "image_processor", None)

    def __call__(self, picture: Image) -> None:
        if picture.size in self._accepted:
            return
        processor = self._image_processor
        try:
            if processor:
                with process_state.TORCH:
                    processor(images=[picture], return_tensors="pt")
        except Exception as error:  # each family's processor has its own limits, and errors of its own
            raise ValueError(f"the image processor rejects it: {error}") from None
        self._accepted.add(picture.size)


@contextmanager
def refusals(checkpoint: Checkpoint) -> Iterator[None]:
    """Raise CheckpointError with transformers' own reason for whatever it raises inside."""
    try:
        yield
    except LuqError:
        raise
    except Exception as error:  # what transformers raises of a config or a tokenizer that somebody made up
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"transformers cannot load {checkpoint.name}: {reason}",
            "Check that the checkpoint is complete and unmodified.",
        ) from None
