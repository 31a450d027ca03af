"""A sample's text in the checkpoint's own chat format, with the image token where the model expects it.

Templates are found where transformers and the converter find them, and rendered by transformers. A template that takes
contents as strings only, or knows nothing of images, gets the image token as part of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luq_gguf.core.chat_date import FixedClock
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.placeholders import without_placeholders
from luq_gguf.core.sandbox_limits import bounded
from luq_gguf.core.types import Sample
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import load_processor, refusals

QUESTION = "What is in the picture?"
# What stands around an image token in the text, where the processor does not write it itself.
_AROUND = (("<|vision_start|>", "<|vision_end|>"), ("<|begin_of_image|>", "<|end_of_image|>"))
_LEAKED = ("'type': 'text'", '"type": "text"', '"type":"text"')


def chat_template_of(processor: Any) -> str | None:
    """Return the chat template of a processor or of its tokenizer; of several the default, or the first."""
    for owner in (processor, getattr(processor, "tokenizer", processor)):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default") or next(iter(template.values()), None)
        if template:
            return str(template)
    return None


def chat_text(processor: Any, sample: Sample) -> str:
    """Return the sample in the model's own chat format, with its answer if it has one, or without a template as it is.

    Raises CheckpointError where the template cannot be rendered."""
    prompt = without_placeholders(sample.prompt, image_tokens(processor))
    template, has_image = chat_template_of(processor), sample.image is not None
    if template is None:
        text = (image_text(processor) if has_image else "") + prompt
        return f"{text} {sample.answer}" if sample.answer else text
    text = _rendered(processor, template, prompt, has_image=has_image)
    return text + sample.answer if sample.answer else text


def token_options(processor: Any, text: str) -> dict[str, bool]:
    """Return how a rendered text is tokenized, as transformers' own `apply_chat_template` does it: no second BOS token
    is put before a template's."""
    tokenizer = getattr(processor, "tokenizer", processor)
    has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return {"add_special_tokens": False} if has_bos or processor is tokenizer else {}


def image_tokens(processor: Any) -> list[str]:
    """Return the tokens of which a processor replaces one by an image; none where it does not name any."""
    tokenizer = getattr(processor, "tokenizer", processor)
    names = [getattr(owner, name, None) for owner in (processor, tokenizer) for name in ("image_token", "boi_token")]
    return list(dict.fromkeys(str(name) for name in names if name))


def image_text(processor: Any) -> str:
    """Return the text for which a processor puts an image, with what belongs around it; "" where it is not known."""
    tokens = image_tokens(processor)
    if not tokens:
        return ""
    vocabulary = getattr(processor, "tokenizer", processor).get_vocab()
    start, end = next((pair for pair in _AROUND if set(pair) <= set(vocabulary)), ("", ""))
    return start + tokens[0] + end


def _rendered(processor: Any, template: str, prompt: str, *, has_image: bool) -> str:
    """The first rendering that has the prompt and the image; else the first that has the image."""
    tokens, refusal, usable = image_tokens(processor), None, []
    for content in _contents(processor, prompt, has_image=has_image):
        turns = [{"role": "user", "content": content}]
        try:
            with bounded(), _fixed_date():
                text: str = processor.apply_chat_template(
                    turns, chat_template=template, add_generation_prompt=True, tokenize=False
                )
        except Exception as error:  # a template is a program of somebody's; transformers renders it in a sandbox
            refusal = refusal or error
            continue
        leaked = any(part in text and part not in prompt for part in _LEAKED)
        if leaked or (has_image and tokens and not any(token in text for token in tokens)):
            continue
        if prompt.strip() in text:
            return text
        usable.append(text)
    if usable:
        return usable[0]
    reason = f"{type(refusal).__name__}: {refusal}" if refusal else "it drops the prompt or the image"
    raise CheckpointError(
        f"The checkpoint's chat template cannot be rendered: {reason}",
        "Check that the checkpoint is complete and unmodified.",
    )


@contextmanager
def _fixed_date() -> Iterator[None]:
    """Let transformers' `strftime_now` tell templates the fixed date: it hands them no function of ours."""
    from transformers.utils import chat_template_utils as theirs

    clock = theirs.datetime
    theirs.datetime = FixedClock
    try:
        yield
    finally:
        theirs.datetime = clock


def _contents(processor: Any, prompt: str, *, has_image: bool) -> Iterator[Any]:
    """A turn's content in the forms that templates take: a list with or without an image in it, or a string."""
    image = image_text(processor) if has_image else ""
    is_tokenizer = getattr(processor, "tokenizer", processor) is processor
    if is_tokenizer:
        yield image + prompt
    text = {"type": "text", "text": prompt}
    yield [{"type": "image"}, text] if has_image else [text]
    if image:
        yield [{"type": "text", "text": image + prompt}]
    if not is_tokenizer:
        yield image + prompt


def check(checkpoint: Checkpoint) -> str | None:
    """Make a model's inputs of one question, and of one about a picture where the processor takes pictures, as a
    calibration pass will. Return the chat template that this takes. Raises CheckpointError where it fails."""
    from PIL import Image

    with refusals(checkpoint):
        processor = load_processor(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    takes_pictures = getattr(processor, "image_processor", None) is not None
    for sample in [Sample(QUESTION)] + [Sample(QUESTION, Path("picture"))] * takes_pictures:
        text = chat_text(processor, sample)
        if QUESTION not in text:
            raise CheckpointError(
                f"The chat template of {checkpoint.name} drops the prompt.", "Check that the checkpoint is unmodified."
            )
        if sample.image is None:
            continue
        try:
            processor(images=[[Image.new("RGB", (64, 64))]], text=[text], return_tensors="pt")
        except Exception as error:  # what transformers raises where a processor, a template and a tokenizer do not fit
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"transformers cannot put a picture into a prompt of {checkpoint.name}: {reason}",
                "Check that chat template, tokenizer and preprocessor_config.json are this model's.",
            ) from None
    return chat_template_of(processor)
