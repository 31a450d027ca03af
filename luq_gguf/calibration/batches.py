"""Makes batches of a reference model's inputs from calibration samples and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luq_gguf.core.calibration_set import DEPLOYED, CalibrationData
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.images import open_rgb, upright_size
from luq_gguf.core.picture_geometry import Canvas
from luq_gguf.core.types import Sample, ShardSpec
from luq_gguf.hf import devices
from luq_gguf.hf.prompts import chat_text, token_options

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK_TOKENS = 512  # llama-imatrix's default context, so that both read the same chunks of a text
BATCH_TOKENS = 1024  # bounds the memory of activations; more is no faster on a CPU


@dataclass(frozen=True)
class Batch:
    """Model inputs and which tokens count: `valid` bool [batch, tokens]; `ids` are sample numbers."""

    inputs: dict[str, Tensor]
    valid: Tensor
    multimodal: bool
    ids: tuple[int, ...]


def batches(
    model: nn.Module,
    processor: Any,
    calibration: CalibrationData,
    start: int = 0,
    share: ShardSpec = ShardSpec(),
    *,
    chunk: int = CHUNK_TOKENS,
) -> Iterator[Batch]:
    """Yield batches of the set in a fixed order: multimodal samples, then text. `start` skips whole batches; `chunk` is
    how many tokens the pieces of a document have.

    A share has whole batches, so each has the same samples wherever it is computed, and samples keep their
    numbers in the whole set; `start` then counts the share's own.
    """
    groups = _grouped_samples(processor, list(calibration.multimodal), 0, calibration.canvases)
    n_multimodal = len(calibration.multimodal)
    if calibration.document is not None:
        rest: list[Any] = list(_chunk_groups(processor, calibration, chunk))
    else:
        rest = _grouped_samples(processor, list(calibration.text), n_multimodal)
    for number, group in enumerate([*groups, *rest][share.index :: share.count]):
        if number < start:
            continue
        yield (
            _chunk_batch(group, model)
            if isinstance(group, _Chunks)
            else _sample_batch(processor, group, model, calibration)
        )


@dataclass(frozen=True)
class _Chunks:
    tokens: list[list[int]]
    first_id: int


def chunk_tokens(tokenizer: Any, document: str, count: int, length: int = CHUNK_TOKENS) -> list[list[int]]:
    """Return the first chunks of a text, of `length` tokens, each starting with BOS where the tokenizer adds it, as in
    llama-imatrix."""
    ids = tokenizer(document, add_special_tokens=False)["input_ids"]
    with_special = tokenizer("a")["input_ids"]
    bos = with_special[0] if with_special[0] == tokenizer.bos_token_id else None
    if bos is not None:
        ids = [bos, *ids]
    chunks = [ids[at : at + length] for at in range(0, len(ids), length)][:count]
    if len(chunks) > 1 and len(chunks[-1]) < length:
        chunks.pop()  # llama-imatrix reads whole chunks only
    return [[bos, *chunk[1:]] if bos is not None else chunk for chunk in chunks]


def _chunk_groups(processor: Any, calibration: CalibrationData, length: int) -> Iterator[_Chunks]:
    tokenizer = getattr(processor, "tokenizer", processor)
    assert calibration.document is not None
    chunks = chunk_tokens(tokenizer, calibration.document, calibration.n_text, length)
    if not chunks:
        raise CalibrationError("The calibration text has no tokens.", "Give --calib-text a longer text.")
    size = max(1, BATCH_TOKENS // length)
    for at in range(0, len(chunks), size):
        yield _Chunks(chunks[at : at + size], len(calibration.multimodal) + at)


def _chunk_batch(chunks: _Chunks, model: nn.Module) -> Batch:
    length = max(len(chunk) for chunk in chunks.tokens)
    ids = torch.zeros(len(chunks.tokens), length, dtype=torch.long)
    valid = torch.zeros_like(ids, dtype=torch.bool)
    for row, chunk in enumerate(chunks.tokens):
        ids[row, : len(chunk)] = torch.tensor(chunk)
        valid[row, : len(chunk)] = True
    device = next(model.parameters()).device
    inputs = {"input_ids": ids.to(device), "attention_mask": valid.long().to(device)}
    return Batch(
        inputs, valid, multimodal=False, ids=tuple(range(chunks.first_id, chunks.first_id + len(chunks.tokens)))
    )


def _grouped_samples(
    processor: Any, samples: list[Sample], first_id: int, canvases: Mapping[Path, Canvas] = {}
) -> list[list[tuple[int, Sample]]]:
    """Consecutive samples with equally many images, as many as keep a padded batch within BATCH_TOKENS by a cheap guess
    of their lengths."""
    groups: list[list[tuple[int, Sample]]] = []
    room = 0
    for number, sample in enumerate(samples, first_id):
        guess = sum(len(turn.text) for turn in sample.conversation) // 3 + 32
        guess += sum(_image_tokens_guess(processor, image, canvases.get(image)) for image in sample.images)
        differs = groups and len(groups[-1][0][1].images) != len(sample.images)
        if not groups or room < guess or len(groups[-1]) == 32 or differs:
            groups.append([])
            room = BATCH_TOKENS
        groups[-1].append((number, sample))
        room -= guess
    return groups


def _image_tokens_guess(processor: Any, image: Path, canvas: Canvas | None) -> int:
    width, height = canvas.size if canvas else upright_size(image)
    fixed = getattr(processor, "image_seq_length", None)
    return int(fixed) if isinstance(fixed, int) else max(16, width * height // (28 * 28))


def _shown(image: Path, canvases: Mapping[Path, Canvas]) -> Image:
    picture = open_rgb(image)
    return canvases[image].draw(picture) if image in canvases else picture


def _sample_batch(
    processor: Any, group: list[tuple[int, Sample]], model: nn.Module, calibration: CalibrationData
) -> Batch:
    samples = [sample for _, sample in group]
    texts = [chat_text(processor, sample) for sample in samples]
    multimodal = bool(samples[0].images)
    options: dict[str, Any] = {"return_tensors": "pt", "padding": len(texts) > 1} | token_options(processor, texts[0])
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if multimodal:
        pictures = [[_shown(image, calibration.canvases) for image in sample.images] for sample in samples]
        options |= {"do_resize": False} if calibration.pixels == DEPLOYED else {}
        encoded = processor(images=pictures, text=texts, **options)
    else:
        encoded = processor(text=texts, **options)
    weight = next(model.parameters())
    inputs = {key: devices.as_weights(value, weight) for key, value in encoded.items() if isinstance(value, Tensor)}
    valid = inputs["attention_mask"].bool().cpu()
    return Batch(inputs, valid, multimodal, tuple(number for number, _ in group))
