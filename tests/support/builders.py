"""Small values for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from msgspec import UNSET

from luq_gguf.core import question_scores
from luq_gguf.core.measurements import Divergence, EvalConditions, EvalResult, Metrics, SplitFigures
from luq_gguf.core.sweeps import SweepPoint
from luq_gguf.core.types import LayerEntropy, ModelTensors, TensorChoice
from luq_gguf.method.metrics import intervals


def entropies(*bits: float, spread: float = 0.0) -> tuple[LayerEntropy, ...]:
    return tuple(LayerEntropy(i, b, spread, 1000, {}) for i, b in enumerate(bits))


def model(
    n_layers: int = 4, high: int = 1000, low: int = 400, embedding: int = 2000, header: int = 100
) -> ModelTensors:
    """One matrix and one norm a layer, and an embedding; sizes in bytes."""
    choices = [TensorChoice("token_embd.weight", None, 4096, "Q4_K", embedding, "Q4_K", embedding)]
    for n in range(n_layers):
        choices.append(TensorChoice(f"blk.{n}.ffn_up.weight", n, 2048, "Q4_K", high, "IQ1_M", low))
        choices.append(TensorChoice(f"blk.{n}.attn_norm.weight", n, 8, "F32", 32, "F32", 32))
    return ModelTensors(tuple(choices), n_layers, "IQ1_M", "Q4_K_M", header)


def point_of(order: str, n_low: int | None, n_bytes: int, kld: float, seed: int = 0) -> SweepPoint:
    """A point of a sweep that measured divergence alone."""
    divergence = Divergence(kld, kld / 2, 2 * kld, kld, kld, kld, 10, floor=0.0, missing_beyond_kept=0.0)
    metrics = Metrics(None, None, divergence, None, None, 0.9, None, None)
    return SweepPoint(order, seed, n_low, tuple(range(n_low or 0)), n_bytes, 4.5, metrics, 4.4)


def split_figures(scores: Sequence[float], before: Sequence[float] | None = None) -> SplitFigures:
    """What was measured on a split: the scores of its questions, and those of the reference."""
    ours = np.array(scores, float)
    theirs = None if before is None else np.array(before, float)
    return SplitFigures(
        len(ours),
        intervals.accuracy(ours),
        UNSET if theirs is None else intervals.accuracy(theirs),
        UNSET if theirs is None else intervals.paired_difference(theirs, ours),
        scores=question_scores.packed(ours),
    )


def eval_of(
    file: str,
    scores: Sequence[float],
    splits: Mapping[str, Iterable[int]] | None = None,
    before: Sequence[float] | None = None,
) -> EvalResult:
    """A file's answers to some questions; `splits` has the numbers of those of each, and `before` the scores of the
    reference."""
    ours, whole = np.array(scores, float), split_figures(scores, before)
    figures = {
        name: split_figures(ours[list(at)], None if before is None else np.array(before)[list(at)])
        for name, at in (splits or {}).items()
    }
    return EvalResult(
        file=file, reference=None if before is None else "f16.gguf", n_samples=len(ours), metric="exact",
        accuracy=whole.accuracy, reference_accuracy=whole.reference_accuracy, accuracy_change=whole.accuracy_change,
        kld=None, kld_prompt=None, kld_answer=None, kld_text=None, same_top=None, perplexity=None, n_chunks=0,
        conditions=EvalConditions("set.jsonl", "0f", 32, None, None, "95%"), scores=whole.scores,
        splits=figures or UNSET, splits_sha256="0a" if figures else UNSET,
    )  # fmt: skip


def scored_point(
    order: str, n_low: int | None, n_bytes: int, splits: Mapping[str, Sequence[float]],
    before: Mapping[str, Sequence[float]],
) -> SweepPoint:  # fmt: skip
    """A point of a sweep with the scores of each split's questions, and those of the 16-bit file."""
    point = point_of(order, n_low, n_bytes, 1e-3)
    everything, wide = ([score for part in side.values() for score in part] for side in (splits, before))
    whole = split_figures(everything, wide)
    figures = {name: split_figures(scores, before[name]) for name, scores in splits.items()}
    change = whole.accuracy_change
    assert change is not UNSET
    scored = replace(
        point.metrics, accuracy=whole.accuracy, accuracy_change=change, scores=whole.scores, splits=figures
    )
    return replace(point, metrics=scored)
