"""The processor of a vision-language checkpoint, without its video half.

Some families' processors insist on a video processor, which transformers has for torchvision only. luq-gguf never
reads video, so it loads a processor that knows images and text, and works where torchvision is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def images_and_text(processor_class: type) -> type:
    """The same processor class without a video processor: transformers reads the parts from __init__'s signature."""
    if "video_processor" not in processor_class.get_attributes():  # type: ignore[attr-defined]
        return processor_class

    class ImagesAndText(processor_class):  # type: ignore[misc, valid-type]
        # The video processor (None) that the parent passes on positionally, last, falls away: ProcessorMixin
        # counts the parts of this signature.
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
        ) -> None:
            super().__init__(
                image_processor=image_processor, tokenizer=tokenizer, chat_template=chat_template, **kwargs
            )

    ImagesAndText.__name__ = processor_class.__name__  # what save_pretrained writes
    return ImagesAndText


def load_processor(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The processor saved in a checkpoint folder, or its tokenizer where the model reads text only.

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
