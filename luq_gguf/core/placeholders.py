"""Placeholders of images in the prompts of data sets: where the image goes is the chat template's to say.

Data sets for fine-tuning hold what some model writes for an image ("<image>\\nWhat is this?"). A model would read it as
text, or as a second image that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_KNOWN = (
    "<image>",  # LLaVA's data, and what most trainers' formats took over
    "<|image|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>",  # Qwen, Llama 3.2 and 4
    "<|begin_of_image|>", "<|end_of_image|>",  # GLM
    "<start_of_image>", "<end_of_image>", "<image_soft_token>",  # Gemma
    "<IMG_CONTEXT>", "<image_placeholder>", "<|image_placeholder|>", "<|endoftext10|>",  # InternVL, Janus, Phi
    "<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>",  # Kimi
    "[IMG]", "[IMG_BREAK]", "[IMG_END]",  # Pixtral
    "<__media__>", "<__image__>",  # libmtmd's marker, and its older one
)  # fmt: skip
_NUMBERED = r"<\|image_\d+\|>"  # Phi


def without_placeholders(prompt: str, more: Iterable[str] = ()) -> str:
    """Return a prompt without placeholders of images, those of a model's own (`more`) among them, and without the white
    space that held them apart from the text. A prompt that has none is returned as it is."""
    tokens = "|".join([*map(re.escape, [*_KNOWN, *more]), _NUMBERED])
    stripped, count = re.subn(rf"[ \t]*(?:(?:{tokens})[ \t]*)+", _gap, prompt)
    return stripped.strip() if count else prompt


def _gap(match: re.Match[str]) -> str:
    """What is left between two words of a line."""
    inside = match.string[match.start() - 1 : match.start()].strip() and match.string[match.end() :][:1].strip()
    return " " if inside else ""
