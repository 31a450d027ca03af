"""A sample's text in the checkpoint's own chat format, with the image token where the model expects it.

Templates are found where transformers and the converter find them, and rendered by transformers. A template that takes
contents as strings only, or knows nothing of images, gets the image token as part of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luq_gguf.core.chat_date import FixedClock
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.placeholders import without_placeholders
from luq_gguf.core.sandbox_limits import bounded
from luq_gguf.core.turns import Turn, described, is_prompt, n_pictures
from luq_gguf.core.types import Sample
from luq_gguf.hf import packages, sight
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import load_processor, refusals

if TYPE_CHECKING:
    from torch import nn

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

    Raises CheckpointError where the template cannot be rendered, or does not place all pictures and turns."""
    own = image_tokens(processor)
    turns = [
        Turn(turn.role, tuple(part and without_placeholders(part, own) for part in turn.content))
        for turn in sample.conversation
    ]
    template = chat_template_of(processor)
    if template is None:
        if len(turns) > 1:
            raise CheckpointError(
                "The checkpoint has no chat template, which would place the turns of a conversation.",
                "Leave out samples with several turns.",
            )
        text = _with_images(turns[0], image_text(processor))
        return f"{text} {sample.answer}" if sample.answer else text
    text = _rendered(processor, template, turns)
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


def _with_images(turn: Turn, image: str) -> str:
    return "".join(image if part is None else part for part in turn.content)


def _rendered(processor: Any, template: str, turns: Sequence[Turn]) -> str:
    """The first rendering that has all prompts and pictures; else, of a single prompt, the first that has the
    pictures."""
    n = n_pictures(turns)
    tokens, refusal, usable = image_tokens(processor), None, []
    prompts = [part for turn in turns if turn.role == "user" for part in turn.content if part is not None]
    for messages in _forms(processor, turns):
        try:
            with bounded(), _fixed_date():
                text: str = processor.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=True, tokenize=False
                )
        except Exception as error:  # a template is a program of somebody's; transformers renders it in a sandbox
            refusal = refusal or error
            continue
        counts = [text.count(token) for token in tokens]
        if n > 1 and any(counts) and n not in counts:
            raise _not_rendered(f"it places {max(counts)} of {n} images")
        leaked = any(leak in text and not any(leak in prompt for prompt in prompts) for leak in _LEAKED)
        if leaked or (n and tokens and not any(counts)):
            continue
        if all(prompt.strip() in text for prompt in prompts):
            return text
        usable.append(text)
    if usable and is_prompt(turns):
        return usable[0]
    dropped = "the prompt or the image" if is_prompt(turns) and n < 2 else "one of the prompts or images"
    raise _not_rendered(f"{type(refusal).__name__}: {refusal}" if refusal else f"it drops {dropped}")


def _not_rendered(reason: str) -> CheckpointError:
    return CheckpointError(
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


def _forms(processor: Any, turns: Sequence[Turn]) -> Iterator[list[dict[str, Any]]]:
    """A conversation in the forms that templates take: contents are lists with or without images in them, of the user
    alone or of all, or strings."""
    image = image_text(processor)
    is_tokenizer = getattr(processor, "tokenizer", processor) is processor
    strings = [{"role": turn.role, "content": _with_images(turn, image)} for turn in turns]
    lists = [
        {
            "role": turn.role,
            "content": [{"type": "image"} if part is None else _text_part(part) for part in turn.content],
        }
        for turn in turns
    ]
    if is_tokenizer:
        yield strings
    yield lists
    if any(turn.role != "user" for turn in turns):
        yield [a if a["role"] == "user" else b for a, b in zip(lists, strings, strict=True)]
    if n_pictures(turns) and image:
        yield [message | {"content": [_text_part(str(message["content"]))]} for message in strings]
    if not is_tokenizer:
        yield strings


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def check_samples(checkpoint: Checkpoint, samples: Iterable[Sample], source: str) -> None:
    """Refuse samples with several pictures or turns that the checkpoint's chat template cannot place, or its processor
    cannot take. `source` names their data set. Raises CheckpointError."""
    asked = [sample for sample in samples if not sample.is_single]
    if not asked:
        return
    with refusals(checkpoint):
        processor = load_processor(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    taken: set[int] = set()
    for sample in asked:
        place = f"{source}, line {sample.line}" if sample.line else source
        n = len(sample.images)
        try:
            text = chat_text(processor, sample)
            if n and n not in taken:
                _inputs_of_blank(processor, text, n)
            taken.add(n)
        except Exception as error:  # of the template, or what a family's processor raises
            reason = error.message.rstrip(".") if isinstance(error, CheckpointError) else _first_line(error)
            raise CheckpointError(
                f"{place}: {checkpoint.name} cannot take {described(sample.conversation)}, because "
                f"{reason[:1].lower()}{reason[1:]}.",
                "Leave such samples out.",
            ) from None


def _inputs_of_blank(processor: Any, text: str, n: int) -> Any:
    """A model's inputs of a text with `n` blank pictures."""
    from PIL import Image

    return processor(images=[[Image.new("RGB", (64, 64)) for _ in range(n)]], text=[text], return_tensors="pt")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check(checkpoint: Checkpoint, model: nn.Module) -> str | None:
    """Make a model's inputs of one question, and of one about a picture where the processor takes pictures, as a
    calibration pass will, and see that `model`, whose weights do not matter, sees the picture. Return the chat template
    that this takes. Raises CheckpointError where it fails."""
    with refusals(checkpoint):
        processor = load_processor(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    sight.check_processor(checkpoint, processor)
    takes_pictures = getattr(processor, "image_processor", None) is not None
    tokenizer, text_ids = getattr(processor, "tokenizer", processor), []
    for sample in [Sample(QUESTION)] + [Sample(QUESTION, (Path("picture"),))] * takes_pictures:
        text = chat_text(processor, sample)
        if QUESTION not in text:
            raise CheckpointError(
                f"The chat template of {checkpoint.name} drops the prompt.", "Check that the checkpoint is unmodified."
            )
        if not sample.images:
            text_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            continue
        try:
            inputs = _inputs_of_blank(processor, text, 1)
        except Exception as error:  # what transformers raises where a processor, a template and a tokenizer do not fit
            if refusal := packages.refusal(checkpoint.name, error):
                raise refusal from None
            raise CheckpointError(
                f"transformers cannot put a picture into a prompt of {checkpoint.name}: {_first_line(error)}",
                "Check that chat template, tokenizer and preprocessor_config.json are this model's.",
            ) from None
        if checkpoint.has_vision:
            sight.check_inputs(checkpoint, processor, model, text_ids, inputs)
    return chat_template_of(processor)
