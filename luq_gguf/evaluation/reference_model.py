"""Asks the reference model in transformers what it predicts after the tokens of text that a file's prompt has.

The file is asked as it is deployed, with its own chat template and tokenizer. The reference model is given the file's
tokens of text around its own tokens of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.images import open_rgb
from luq_gguf.core.types import Sample
from luq_gguf.hf import devices, footprint, prompts, sight
from luq_gguf.hf import model as hf_model
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp.runtime.client import LlamaClient

_ROWS = 32  # positions that are computed at once: in float64 each takes a megabyte or two
_LONGEST = 200  # characters of what is told of different tokens


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as llama.cpp reads it: tokens of text before the picture, between its pieces and behind it, and how many
    tokens the pieces have, 0 without a picture."""

    before: list[int]
    between: list[int]
    after: list[int]
    n_picture: int


@dataclass(frozen=True)
class AlignedPrompt:
    """The reference model's inputs for a prompt with the file's tokens of text.

    Its places of text are n_before before the picture, `between` its pieces (none where the two sides differ in them)
    and behind it. `n_picture` are its own tokens of the picture; `differences` says which tokens of the text it would
    have had otherwise, empty where none.
    """

    inputs: dict[str, Any]
    n_before: int
    between: list[int]
    after: range
    n_picture: int
    differences: str

    @property
    def places(self) -> list[int]:
        """Return all places of text, in order."""
        return [*range(self.n_before), *self.between, *self.after]


def placement_for(device: str, checkpoint: Checkpoint, available: int) -> Placement:
    """Return where the reference model is computed: in float32 where that fits in the memory, else in the type that a
    calibration pass takes. `available` are the bytes of memory that this process can use; an accelerator is asked for
    its own. Raises DeviceError."""
    placement = devices.choose_device(device, checkpoint)
    if placement.spread:
        return placement
    if placement.device.type == "cpu":
        has_room = footprint.of_pass(checkpoint, "float32").usual <= available
    else:
        need = 4 * (footprint.n_parameters(checkpoint) + footprint.largest_layer(checkpoint))
        has_room = need <= (devices.look(placement.device).free or 0)
    return replace(placement, exact=has_room)


def load(checkpoint: Checkpoint, placement: Placement) -> tuple[nn.Module, Any]:
    """Load the model and its processor. Raises what `hf.model.load_reference` raises."""
    model, processor = hf_model.load_reference(checkpoint, placement)
    # Of a quantized checkpoint, transformers keeps some weights in 16 bits.
    return model.float() if placement.exact else model, processor


def prompt_tokens(client: LlamaClient, sample: Sample) -> PromptTokens:
    """Return the tokens that a file's prompt of a sample's question has."""
    parts = client.parts(client.render(sample.conversation), sample.images)
    pieces = [number for number, part in enumerate(parts) if isinstance(part, int)]
    first, last = (pieces[0], pieces[-1]) if pieces else (len(parts), len(parts))
    before, between, after = (_text(part) for part in (parts[:first], parts[first:last], parts[last:]))
    return PromptTokens(before, between, after, sum(part for part in parts if isinstance(part, int)))


def _text(parts: Sequence[tuple[int, ...] | int]) -> list[int]:
    return [token for part in parts if not isinstance(part, int) for token in part]


def own_inputs(processor: Any, sample: Sample) -> dict[str, Any]:
    """Return a sample's question as calibration reads it, with the reference model's own tokens and no answer."""
    text = prompts.chat_text(processor, replace(sample, answers=()))
    options = {"return_tensors": "pt"} | prompts.token_options(processor, text)
    pictures = {"images": [[open_rgb(image) for image in sample.images]]} if sample.images else {}
    return dict(processor(text=[text], **pictures, **options))


def align(
    model: nn.Module,
    processor: Any,
    sample: Sample,
    inputs: dict[str, Any],
    prompt: PromptTokens,
    checkpoint: Checkpoint,
) -> AlignedPrompt:
    """Put the file's tokens of text around the picture of the reference model's own inputs. Raises CheckpointError
    where it has no tokens of the picture."""
    ids: list[int] = inputs["input_ids"][0].tolist()
    stand_ins = sight.image_ids(model, processor) if sample.images else set()
    at = [number for number, token in enumerate(ids) if token in stand_ins]
    if sample.images and not at:
        raise CheckpointError(
            f"transformers puts no tokens of a picture into a prompt of {checkpoint.name}.",
            "Check that chat template, tokenizer and preprocessor_config.json are this model's.",
        )
    first, stop = (at[0], at[-1] + 1) if at else (len(ids), len(ids))
    between = [number for number in range(first, stop) if ids[number] not in stand_ins]
    told = _differences(processor, [ids[:first], ids[stop:]], [prompt.before, prompt.after])
    if [ids[number] for number in between] != prompt.between:
        if prompt.between:  # else libmtmd makes separators a part of the picture
            told = told or _differences(processor, [[ids[number] for number in between]], [prompt.between])
        between = []
    if told:
        inputs = with_text(inputs, first, stop, prompt.before, prompt.after)
    shift = len(prompt.before) - first
    after = range(stop + shift, stop + shift + len(prompt.after))
    n_picture = len(at) if prompt.between else stop - first
    return AlignedPrompt(inputs, len(prompt.before), [place + shift for place in between], after, n_picture, told)


def with_text(inputs: dict[str, Any], first: int, stop: int, before: list[int], after: list[int]) -> dict[str, Any]:
    """The same picture in another text: of all inputs that go along with the tokens, the picture's part stays, and text
    has what the prompt's last token has."""
    ids = inputs["input_ids"]

    def respelled(value: Tensor) -> Tensor:
        filled = [value.new_full((1, len(text)), int(value[0, -1])) for text in (before, after)]
        return torch.cat([filled[0], value[:, first:stop], filled[1]], dim=1)

    along = {name: respelled(value) for name, value in inputs.items() if getattr(value, "shape", None) == ids.shape}
    text = [ids.new_tensor([part], dtype=ids.dtype) for part in (before, after)]
    return inputs | along | {"input_ids": torch.cat([text[0], ids[:, first:stop], text[1]], dim=1)}


def placed(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Return the inputs where the model is, and in its type."""
    first = next(model.parameters())
    tensors = {name: value.to(first.device) for name, value in inputs.items() if isinstance(value, Tensor)}
    return {name: value.to(first.dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def log_probabilities(model: nn.Module, inputs: dict[str, Any], places: Sequence[int]) -> np.ndarray:
    """Return log-probabilities behind the tokens at these places, float32 [n, n_vocab]."""
    with torch.inference_mode():
        logits = model(**placed(model, inputs)).logits[0]
        rows = [torch.log_softmax(logits[list(part)].double(), dim=-1).float().cpu() for part in pieces(places)]
    return torch.cat(rows).numpy()


def pieces(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Cut places into pieces that are computed at once."""
    return [numbers[at : at + _ROWS] for at in range(0, len(numbers), _ROWS)]


def _differences(processor: Any, theirs: Sequence[list[int]], ours: Sequence[list[int]]) -> str:
    """Which tokens of text are not the same on both sides of a picture; empty where all are."""
    tokenizer = getattr(processor, "tokenizer", processor)

    def spelled(tokens: list[int]) -> str:
        return " ".join(repr(tokenizer.decode([token])) for token in tokens) or "nothing"

    told = [
        f"{spelled(a[i:j])} to transformers is {spelled(b[k:m])} to llama.cpp"
        for a, b in zip(theirs, ours, strict=True)
        for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        if kind != "equal"
    ]
    text = "; ".join(told)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
