"""Cuts long calibration samples, so that none of them decides the whole profile or exceeds the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import load_processor, refusals

LONGEST = 512  # tokens of a sample's text: as many as the chunks have that a calibration text is read in


def longest(checkpoint: Checkpoint) -> int:
    """Return the tokens that a sample's text may have: LONGEST, or half of a smaller context, as its image and what the
    chat template adds take room, too."""
    for config in (checkpoint.config.get("text_config"), checkpoint.config):
        context = config.get("max_position_embeddings") if isinstance(config, dict) else None
        if isinstance(context, int) and context > 1:
            return min(LONGEST, context // 2)
    return LONGEST


def cut(data: CalibrationData, checkpoint: Checkpoint) -> CalibrationData:
    """Return the data with prompts and answers cut where they are longer than `longest`; `n_cut` says how many were.

    Raises CheckpointError where the tokenizer cannot be loaded, which is needed only if a sample may be too long.
    """
    limit = longest(checkpoint)
    if not any(_may_exceed(sample, limit) for sample in (*data.multimodal, *data.text)):
        return data
    with refusals(checkpoint):
        processor = load_processor(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    tokenizer = getattr(processor, "tokenizer", processor)
    multimodal, text = (
        tuple(shortened(tokenizer, sample, limit) for sample in samples) for samples in (data.multimodal, data.text)
    )
    before, after = (*data.multimodal, *data.text), (*multimodal, *text)
    n_cut = sum(a != b for a, b in zip(before, after, strict=True))
    return replace(data, multimodal=multimodal, text=text, n_cut=n_cut, cut_at=limit)


def _may_exceed(sample: Sample, limit: int) -> bool:
    """No tokenizer makes more tokens than there are bytes."""
    texts = [turn.text for turn in sample.conversation]
    return sum(len(text.encode()) for text in (*texts, sample.answer or "")) > limit


def shortened(tokenizer: Any, sample: Sample, limit: int) -> Sample:
    """Return the sample with the beginnings of its prompt and answer, of `limit` tokens together; an answer keeps half
    of them where both are long, and of a conversation's texts the longest are cut."""
    if not _may_exceed(sample, limit):
        return sample
    parts = [part for turn in sample.conversation for part in turn.content if part is not None]
    texts, answer = [_offsets(tokenizer, part) for part in parts], _offsets(tokenizer, sample.answer or "")
    n_prompt = sum(map(len, texts))
    if n_prompt + len(answer) <= limit:
        return sample
    n_answer = min(len(answer), max(limit // 2, limit - n_prompt))
    most = _longest_kept([len(ends) for ends in texts], limit - n_answer)
    cut = iter([_beginning(part, ends, most) for part, ends in zip(parts, texts, strict=True)])
    turns = [
        Turn(turn.role, tuple(None if part is None else next(cut) for part in turn.content))
        for turn in sample.conversation
    ]
    answers = sample.answers
    if sample.answer is not None:
        answers = (_beginning(sample.answer, answer, n_answer), *answers[1:])
    return Sample.of_turns(turns, sample.images, answers, sample.line)


def _longest_kept(lengths: Sequence[int], limit: int) -> int:
    """How many tokens each text keeps at most, so that all together have no more than `limit`."""
    for number, length in enumerate(ordered := sorted(lengths)):
        share = limit // (len(ordered) - number)
        if length > share:
            return share
        limit -= length
    return max(lengths, default=0)


def _offsets(tokenizer: Any, text: str) -> list[int]:
    """Return for each token of a text the number of characters up to its end."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [int(end) for _, end in encoded["offset_mapping"]]
    n = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [len(text) * (number + 1) // n for number in range(n)]  # about, for a tokenizer that does not say where


def _beginning(text: str, ends: list[int], n_tokens: int) -> str:
    return text if n_tokens >= len(ends) else text[: ends[n_tokens - 1] if n_tokens else 0]
