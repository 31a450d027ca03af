"""Placeholders of images in the prompts of data sets: where the image goes is the chat template's to say.

Data sets for fine-tuning hold what some model writes for an image ("<image>\\nWhat is this?"). A model would read it as
text, or as a second image that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PICTURES = (  # each stands for a picture
    "<image>",  # LLaVA's data, and what most trainers' formats took over
    "<|image|>", "<|image_pad|>",  # Llama 3.2 and 4, GLM, Qwen
    "<start_of_image>", "<image_soft_token>",  # Gemma
    "<IMG_CONTEXT>", "<image_placeholder>", "<|image_placeholder|>", "<|endoftext10|>",  # InternVL, Janus, Phi
    "<|media_pad|>",  # Kimi
    "[IMG]",  # Pixtral
    "<__media__>", "<__image__>",  # libmtmd's marker, and its older one
)  # fmt: skip
_AROUND = (  # these stand around one, or in it
    "<|vision_start|>", "<|vision_end|>", "<|begin_of_image|>", "<|end_of_image|>", "<end_of_image>",
    "<|media_begin|>", "<|media_content|>", "<|media_end|>", "[IMG_BREAK]", "[IMG_END]",
)  # fmt: skip
_NUMBERED = r"<\|image_\d+\|>"  # Phi


def without_placeholders(prompt: str, more: Iterable[str] = ()) -> str:
    """Return a prompt without placeholders of images, those of a model's own (`more`) among them, and without the white
    space that held them apart from the text. A prompt that has none is returned as it is."""
    tokens = "|".join([*map(re.escape, [*_PICTURES, *_AROUND, *more]), _NUMBERED])
    stripped, count = re.subn(rf"[ \t]*(?:(?:{tokens})[ \t]*)+", _gap, prompt)
    return stripped.strip() if count else prompt


def split(text: str) -> list[str]:
    """Return the texts before, between and behind the placeholders of pictures in a text: one more than there are."""
    around = "|".join(map(re.escape, _AROUND))
    tokens = "|".join([*map(re.escape, _PICTURES), _NUMBERED])
    return re.split(rf"(?:{around})*(?:{tokens})(?:{around})*", text)


def _gap(match: re.Match[str]) -> str:
    """What is left between two words of a line."""
    inside = match.string[match.start() - 1 : match.start()].strip() and match.string[match.end() :][:1].strip()
    return " " if inside else ""
