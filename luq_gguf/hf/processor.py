"""The processor of a vision-language checkpoint, without its video half.

Some families' processors insist on a video processor, which transformers has for torchvision only. luq-gguf never
reads video, so it loads a processor that knows images and text, and works where torchvision is not installed.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


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

    Raises what transformers raises when a part is missing or unreadable.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if type(config) in PROCESSOR_MAPPING:
        processor_class = PROCESSOR_MAPPING[type(config)]
        if "video_processor" in processor_class.get_attributes():
            return images_and_text(processor_class).from_pretrained(folder)  # type: ignore[attr-defined]
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
