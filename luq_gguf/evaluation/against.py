"""Whether llama.cpp computes what transformers computes: both predict the same prompts, with and without a picture.

The file is asked as it is deployed, with its own chat template and tokenizer and with libmtmd's reading of the picture.
The reference model is then given the file's tokens of text around its own tokens of the picture, so that what differs
is computed differently. Which tokens it would have had itself is told apart from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from luq_gguf.core.agreement import Agreement, Positions, SampleAgreement
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.types import Sample
from luq_gguf.evaluation import reference_model
from luq_gguf.evaluation.reference_model import PromptTokens
from luq_gguf.hf import devices
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.runtime.client import LlamaClient
from luq_gguf.method.metrics import kld as kld_metric

N_CTX = 6144  # tokens: libmtmd's largest picture has 4,096
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


def compare(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    placement: Placement,
    *,
    fitted: Mapping[Path, Path] | None = None,
    image_tokens: tuple[int | None, int | None] = (None, None),
    source: str = "",
    threads: int | None = None,
) -> Agreement:
    """Return how far a file and its mmproj are from the checkpoint in transformers on these samples; `source` says
    where they are from.

    `fitted` are the fitted pictures of those that need it: the file is asked about them, too, with `image_tokens`, the
    fewest and the most of a picture. Raises EvaluationError where their vocabularies differ, and what loading either
    raises.
    """
    types = {tensor.type for tensor in shards.read(file).tensors}
    pairs = predictions(file, mmproj, checkpoint, samples, placement, threads=threads)
    agreements = [_agreement(sample, pair) for sample, pair in zip(samples, pairs, strict=True)]
    if fitted:
        changed = [n for n, sample in enumerate(samples) if any(image in fitted for image in sample.images)]
        again = predictions(
            file,
            mmproj,
            checkpoint,
            [samples[number] for number in changed],
            placement,
            shown=fitted,
            image_tokens=image_tokens,
            threads=threads,
        )
        for number, pair in zip(changed, again, strict=True):
            behind = _positions(pair, pair.n_before, len(pair.file))
            agreements[number] = replace(agreements[number], fitted=behind)
    dtype = str(placement.dtype).removeprefix("torch.")
    return Agreement(file.name, types <= _WIDE, checkpoint.name, dtype, source, tuple(agreements))


def predictions(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    placement: Placement,
    *,
    shown: Mapping[Path, Path] | None = None,
    image_tokens: tuple[int | None, int | None] = (None, None),
    threads: int | None = None,
) -> list[Predictions]:
    """Return what both predict of each sample; its answers are not read. `shown` are the pictures that the file is
    given for others, and `image_tokens` the fewest and the most tokens of a picture.

    One after the other is in memory: llama.cpp's predictions are kept while the reference model makes its own.
    """
    asked = [replace(s, images=tuple((shown or {}).get(image, image) for image in s.images)) for s in samples]
    with LlamaClient(file, mmproj, threads=threads, n_ctx=N_CTX, image_tokens=image_tokens) as client:
        read = [
            (reference_model.prompt_tokens(client, s), client.score(s.conversation, s.images).log_probabilities)
            for s in asked
        ]
    model, processor = reference_model.load(checkpoint, placement)
    with devices.memory_errors(placement):
        return [
            _predictions(model, processor, sample, prompt, rows, checkpoint, file)
            for sample, (prompt, rows) in zip(samples, read, strict=True)
        ]


def _predictions(
    model: nn.Module,
    processor: Any,
    sample: Sample,
    prompt: PromptTokens,
    ours: np.ndarray,
    checkpoint: Checkpoint,
    file: Path,
) -> Predictions:
    inputs = reference_model.own_inputs(processor, sample)
    aligned = reference_model.align(model, processor, sample, inputs, prompt, checkpoint)
    rows = reference_model.log_probabilities(model, aligned.inputs, aligned.places)
    if not aligned.between:
        ours = np.delete(ours, range(aligned.n_before, aligned.n_before + len(prompt.between)), axis=0)
    if rows.shape != ours.shape:
        raise EvaluationError(
            f"{file.name} has {ours.shape[1]} tokens in its vocabulary, and {checkpoint.name} has {rows.shape[1]}.",
            "Give the checkpoint that the file was made from.",
        )
    sizes = (aligned.n_picture, prompt.n_picture) if sample.images else None
    return Predictions(rows, ours, aligned.n_before, sizes, aligned.differences)


def _agreement(sample: Sample, pair: Predictions) -> SampleAgreement:
    parts = (_positions(pair, 0, pair.n_before), _positions(pair, pair.n_before, len(pair.file)))
    names = ", ".join(image.name for image in sample.images) or None
    return SampleAgreement(names, parts[0], parts[1] if names else None, pair.picture_tokens, pair.differences)


def _positions(pair: Predictions, start: int, stop: int) -> Positions:
    """The means over the rows from `start` to `stop`."""
    klds, tops = [], []
    for rows in reference_model.pieces(range(start, stop)):
        reference, file = pair.reference[rows[0] : rows[-1] + 1], pair.file[rows[0] : rows[-1] + 1]
        klds.append(kld_metric.kl_divergence(reference, file))
        tops.append(kld_metric.same_top(reference, file))
    if not klds:
        return Positions(0, 0.0, 1.0)
    return Positions(stop - start, float(np.concatenate(klds).mean()), float(np.concatenate(tops).mean()))
