"""What was measured on each split of a set of questions: accuracy and its change, and KL divergence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import UNSET, UnsetType

from luq_gguf.core import question_scores
from luq_gguf.core.measurements import SplitFigures
from luq_gguf.core.types import EvalData
from luq_gguf.method.metrics import intervals


def by_split(
    data: EvalData,
    chosen: Sequence[str | None] | None,
    scores: np.ndarray | None,
    before: np.ndarray | None = None,
    klds: Mapping[int, np.ndarray] | None = None,
) -> dict[str, SplitFigures] | UnsetType:
    """Return the figures of every split, in the set's order; UNSET where the set has none.

    `chosen` is the metric of each question, None where it is not scored; `scores` [n_scored] are a file's, and `before`
    the reference's. `klds` has the divergence at the positions of different questions [n_positions], in nats.
    """
    if not data.splits:
        return UNSET
    of_scored = [sample.split for sample, name in zip(data.samples, chosen or (), strict=bool(chosen)) if name]
    return {name: _figures(data, name, of_scored, scores, before, klds or {}) for name in data.splits}


def sha256(data: EvalData) -> str | UnsetType:
    """Return a hash of which question is of which split; UNSET where the set has none."""
    if not data.splits:
        return UNSET
    return hashlib.sha256(json.dumps([sample.split for sample in data.samples]).encode()).hexdigest()


def _figures(
    data: EvalData,
    name: str,
    of_scored: Sequence[str | None],
    scores: np.ndarray | None,
    before: np.ndarray | None,
    klds: Mapping[int, np.ndarray],
) -> SplitFigures:
    numbers = [number for number, sample in enumerate(data.samples) if sample.split == name]
    inside = np.array([split == name for split in of_scored], bool)
    ours, theirs = (None if side is None or not inside.any() else side[inside] for side in (scores, before))
    positions = [klds[number] for number in numbers if number in klds and len(klds[number])]
    return SplitFigures(
        n_samples=len(numbers),
        accuracy=None if ours is None else intervals.accuracy(ours),
        reference_accuracy=UNSET if theirs is None else intervals.accuracy(theirs),
        accuracy_change=UNSET if ours is None or theirs is None else intervals.paired_difference(theirs, ours),
        kld=intervals.mean_over_positions(positions) if positions else UNSET,
        scores=UNSET if ours is None else question_scores.packed(ours),
    )
