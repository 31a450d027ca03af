"""Whether llama.cpp computes what transformers computes: both predict the same prompts, with and without a picture.

The file is asked as it is deployed, with its own chat template and tokenizer and with libmtmd's reading of the picture.
The reference model is then given the file's tokens of text around its own tokens of the picture, so that what differs
is computed differently. Which tokens it would have had itself is told apart from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luq_gguf.core.agreement import Agreement, Positions, SampleAgreement
from luq_gguf.core.errors import CheckpointError, EvaluationError
from luq_gguf.core.images import open_rgb
from luq_gguf.core.types import Sample
from luq_gguf.hf import devices, footprint, prompts, sight
from luq_gguf.hf import model as hf_model
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric

N_CTX = 6144  # tokens: libmtmd's largest picture has 4,096
_ROWS = 32  # positions that are compared at once: in float64 each takes a megabyte or two
_LONGEST = 200  # characters of what is told of different tokens
_WIDE = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Predictions:
    """What both predict after the same `n` tokens of text of one prompt, of which `n_before` stand before the picture:
    log-probabilities, float32 [n, n_vocab]. The rest is as in SampleAgreement."""

    reference: np.ndarray
    file: np.ndarray
    n_before: int
    picture_tokens: tuple[int, int] | None
    differences: str


@dataclass(frozen=True)
class _FilePrompt:
    """A prompt as llama.cpp reads it: tokens of text before the picture, between its pieces and behind it; how many
    tokens the pieces have, 0 without a picture; and log-probabilities behind each token of text."""

    before: list[int]
    between: list[int]
    after: list[int]
    n_picture: int
    rows: np.ndarray


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


def compare(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    placement: Placement,
    *,
    source: str = "",
    threads: int | None = None,
) -> Agreement:
    """Return how far a file and its mmproj are from the checkpoint in transformers on these samples; `source` says
    where they are from. Raises EvaluationError where their vocabularies differ, and what loading either raises."""
    types = {tensor.type for tensor in shards.read(file).tensors}
    agreements = [
        _agreement(sample, pair)
        for sample, pair in zip(
            samples, predictions(file, mmproj, checkpoint, samples, placement, threads=threads), strict=True
        )
    ]
    dtype = str(placement.dtype).removeprefix("torch.")
    return Agreement(file.name, types <= _WIDE, checkpoint.name, dtype, source, tuple(agreements))


def predictions(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    placement: Placement,
    *,
    threads: int | None = None,
) -> list[Predictions]:
    """Return what both predict of each sample; its answers are not read. One after the other is in memory: llama.cpp's
    predictions are kept while the reference model makes its own."""
    with LlamaClient(file, mmproj, threads=threads, n_ctx=N_CTX) as client:
        read = [_file_prompt(client, sample) for sample in samples]
    model, processor = hf_model.load_reference(checkpoint, placement)
    model = model.float() if placement.exact else model  # of a quantized checkpoint, transformers keeps some in 16 bits
    with devices.memory_errors(placement):
        return [
            _predictions(model, processor, sample, prompt, checkpoint, file)
            for sample, prompt in zip(samples, read, strict=True)
        ]


def _file_prompt(client: LlamaClient, sample: Sample) -> _FilePrompt:
    text = client.render(sample.conversation)
    parts = client.parts(text, sample.images)
    pieces = [number for number, part in enumerate(parts) if isinstance(part, int)]
    first, last = (pieces[0], pieces[-1]) if pieces else (len(parts), len(parts))
    before, between, after = (_text(part) for part in (parts[:first], parts[first:last], parts[last:]))
    n_picture = sum(part for part in parts if isinstance(part, int))
    return _FilePrompt(before, between, after, n_picture, client.score_text(text, sample.images).log_probabilities)


def _text(parts: Sequence[tuple[int, ...] | int]) -> list[int]:
    return [token for part in parts if not isinstance(part, int) for token in part]


def _predictions(
    model: nn.Module, processor: Any, sample: Sample, prompt: _FilePrompt, checkpoint: Checkpoint, file: Path
) -> Predictions:
    inputs = _inputs(processor, sample)
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
        inputs = _with_text(inputs, first, stop, prompt.before, prompt.after)
    shift, n_before, n_after = len(prompt.before) - first, len(prompt.before), len(prompt.after)
    places = [*range(n_before), *(number + shift for number in between), *range(stop + shift, stop + shift + n_after)]
    rows = _log_probabilities(model, inputs, places)
    ours = prompt.rows
    if not between:
        ours = np.delete(ours, range(n_before, n_before + len(prompt.between)), axis=0)
    if rows.shape != ours.shape:
        raise EvaluationError(
            f"{file.name} has {ours.shape[1]} tokens in its vocabulary, and {checkpoint.name} has {rows.shape[1]}.",
            "Give the checkpoint that the file was made from.",
        )
    n_theirs = len(at) if prompt.between else stop - first
    return Predictions(rows, ours, n_before, (n_theirs, prompt.n_picture) if sample.images else None, told)


def _inputs(processor: Any, sample: Sample) -> dict[str, Any]:
    """A sample as calibration reads it, without its answer."""
    text = prompts.chat_text(processor, replace(sample, answers=()))
    options = {"return_tensors": "pt"} | prompts.token_options(processor, text)
    pictures = {"images": [[open_rgb(image) for image in sample.images]]} if sample.images else {}
    return dict(processor(text=[text], **pictures, **options))


def _with_text(inputs: dict[str, Any], first: int, stop: int, before: list[int], after: list[int]) -> dict[str, Any]:
    """The same picture in another text: of all inputs that go along with the tokens, the picture's part stays, and text
    has what the prompt's last token has."""
    ids = inputs["input_ids"]

    def respelled(value: Tensor) -> Tensor:
        filled = [value.new_full((1, len(text)), int(value[0, -1])) for text in (before, after)]
        return torch.cat([filled[0], value[:, first:stop], filled[1]], dim=1)

    along = {name: respelled(value) for name, value in inputs.items() if getattr(value, "shape", None) == ids.shape}
    text = [ids.new_tensor([part], dtype=ids.dtype) for part in (before, after)]
    return inputs | along | {"input_ids": torch.cat([text[0], ids[:, first:stop], text[1]], dim=1)}


def _log_probabilities(model: nn.Module, inputs: dict[str, Any], kept: Sequence[int]) -> np.ndarray:
    """Log-probabilities behind the tokens at these places, float32 [n, n_vocab]."""
    first = next(model.parameters())
    tensors = {name: value.to(first.device) for name, value in inputs.items() if isinstance(value, Tensor)}
    placed = {name: value.to(first.dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    with torch.inference_mode():
        logits = model(**placed).logits[0]
        rows = [torch.log_softmax(logits[list(part)].double(), dim=-1).float().cpu() for part in _pieces(kept)]
    return torch.cat(rows).numpy()


def _pieces(numbers: Sequence[int]) -> list[Sequence[int]]:
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


def _agreement(sample: Sample, pair: Predictions) -> SampleAgreement:
    parts = (_positions(pair, 0, pair.n_before), _positions(pair, pair.n_before, len(pair.file)))
    names = ", ".join(image.name for image in sample.images) or None
    return SampleAgreement(names, parts[0], parts[1] if names else None, pair.picture_tokens, pair.differences)


def _positions(pair: Predictions, start: int, stop: int) -> Positions:
    """The means over the rows from `start` to `stop`."""
    klds, tops = [], []
    for rows in _pieces(range(start, stop)):
        reference, file = pair.reference[rows[0] : rows[-1] + 1], pair.file[rows[0] : rows[-1] + 1]
        klds.append(kld_metric.kl_divergence(reference, file))
        tops.append(kld_metric.same_top(reference, file))
    if not klds:
        return Positions(0, 0.0, 1.0)
    return Positions(stop - start, float(np.concatenate(klds).mean()), float(np.concatenate(tops).mean()))
