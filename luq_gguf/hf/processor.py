"""The processor of a vision-language checkpoint, without its video half.

Many families' processors insist on a video processor, which transformers has for torchvision only. luq-gguf never
reads video, so it loads a processor that knows images and text, and works where torchvision is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luq_gguf.core import json_input, process_state
from luq_gguf.core.errors import CheckpointError, LuqError
from luq_gguf.core.hashing import hash_of
from luq_gguf.hf import packages
from luq_gguf.hf.checkpoint import Checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image

_VIDEO = "video_processor"
_NAMING = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)


class _NoVideo:
    """Stands where a processor has its video processor, of whose settings all are None."""

    model_input_names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):  # what copying asks for
            raise AttributeError(name)


_NO_VIDEO = _NoVideo()


def images_and_text(processor_class: type) -> type:
    """Return the same processor class without a video processor. It takes and passes on its parts as before, in their
    order or by name."""
    if _VIDEO not in processor_class.get_attributes():  # type: ignore[attr-defined]
        return processor_class

    class LoadedParts(processor_class):  # type: ignore[misc, valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != _VIDEO]

    class ImagesAndText(processor_class):  # type: ignore[misc, valid-type]
        # Not among what an instance has, and so not among what is saved.
        video_processor = property(lambda self: _NO_VIDEO, lambda self, given: None)

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            parts = list(LoadedParts._get_arguments_from_pretrained(*args, **kwargs))
            parts.insert(cls.get_attributes().index(_VIDEO), _NO_VIDEO)
            return parts

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == _VIDEO:
                return _NoVideo
            return super().check_argument_for_proper_class(argument_name, argument)

    for subclass in (LoadedParts, ImagesAndText):
        subclass.__name__ = processor_class.__name__  # what save_pretrained writes
    return ImagesAndText


def load_processor(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the processor saved in a checkpoint folder, or its tokenizer where the model reads text only.

    An image processor whose class transformers no longer has is replaced by the one that it has for the model. Raises
    what transformers raises when a part is missing or unreadable.
    """
    with process_state.TORCH:
        from transformers import AutoConfig, AutoProcessor, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        processor_class = _processor_class(folder, config)
        if processor_class is not None:
            without_video = images_and_text(processor_class)
            try:
                if without_video is not processor_class:
                    return without_video.from_pretrained(folder)  # type: ignore[attr-defined]
                return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
            except ValueError as error:
                if "Unrecognized image processor" not in str(error):
                    raise
                return without_video.from_pretrained(folder, config=config)  # type: ignore[attr-defined]
        if trust_remote_code and any("AutoProcessor" in _auto_map(folder / name) for name in _NAMING):
            return AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _processor_class(folder: Path, config: Any) -> type | None:
    """The class of transformers that the files of a model with a vision half name, in the order in which AutoProcessor
    reads them, else the one that belongs to its config's class. A text model's tokenizer may still name the processor
    of the model that it was taken out of."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    for name in _NAMING if getattr(config, "vision_config", None) is not None else ():
        class_name = _small_file(folder / name).get("processor_class")
        candidate: type | None = processor_class_from_name(class_name) if isinstance(class_name, str) else None
        if candidate is not None and hasattr(candidate, "get_attributes"):
            return candidate
    processor_class: type | None = PROCESSOR_MAPPING.get(type(config), None)
    return processor_class


def _auto_map(path: Path) -> Any:
    return _small_file(path).get("auto_map") or {}


def _small_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, which transformers says better."""
    try:
        content = json_input.read(path) if path.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


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
        if refusal := packages.refusal(checkpoint.name, error):
            raise refusal from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"transformers cannot load {checkpoint.name}: {reason}",
            "Check that the checkpoint is complete and unmodified.",
        ) from None
