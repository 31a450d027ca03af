"""Merges the shards of one pass: sums add up, and of all kept tokens those with the smallest keys stay.

Which tokens those are, and in which slots, is what a single process would have had: choosing them needs the seed and
the samples' lengths alone, so it is done again here, in the order of the whole set's batches. The vectors are then
looked up in the shards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from luq_gguf.calibration.profiler import ProfileInputs
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors, TokenSample
from luq_gguf.calibration.shards import AGAIN, Shard
from luq_gguf.core.calibration_set import PROCESSOR
from luq_gguf.core.errors import ShardError
from luq_gguf.core.json_value import given
from luq_gguf.method import importance

SAME = "Merge shards that were made with the same model and the same calibration arguments."


def replay(sample: TokenSample, seen: Sequence[Sequence[tuple[bool, tuple[int, ...], tuple[int, ...]]]]) -> None:
    """Choose among all batches as a single process does; `seen[i]` has every len(seen)-th batch, from the i-th on."""
    longest = max(len(batches) for batches in seen)
    for turn in range(longest):
        for batches in seen:
            if turn < len(batches):
                multimodal, ids, lengths = batches[turn]
                sample.choose(ids, list(lengths), multimodal=multimodal)


def places(chosen: TokenSample, name: str, keys: Sequence[np.ndarray], samples: Sequence[np.ndarray]) -> np.ndarray:
    """Return where the vectors of a modality's slots are: int [capacity, 2], part and row; -1 for free slots.

    `keys[part]` and `samples[part]` [n_kept] are what each part kept. Raises KeyError where none of them kept a chosen
    token.
    """
    rows = {
        (sample, key): (part, row)
        for part in range(len(keys))
        for row, (sample, key) in enumerate(zip(samples[part].tolist(), keys[part].tolist(), strict=True))
    }
    place_of_slot = np.full((chosen.capacity, 2), -1)
    for slot in np.flatnonzero(np.isfinite(chosen.keys[name])):
        place_of_slot[slot] = rows[int(chosen.samples[name][slot]), float(chosen.keys[name][slot])]
    return place_of_slot


class MergedVectors(SampledVectors):
    """What a single process would have kept, read from all shards (in the order of their shares)."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        facts = shards[0].facts
        super().__init__(facts.capacity, facts.calibration.seed)
        self.dtype = getattr(torch, facts.dtype)
        self._shards, self._width = shards, facts.width
        replay(self, [shard.seen for shard in shards])
        try:
            self._places = {
                name: places(self, name, [s.keys[name] for s in shards], [s.samples[name] for s in shards])
                for name in MODALITIES
            }
        except KeyError:
            raise ShardError("None of the shards kept a token that belongs to the sample.", AGAIN) from None

    def _read(self, name: str, layer: int, slots: np.ndarray) -> np.ndarray:
        vectors = np.empty((len(slots), self._width), dtype=np.float32)
        part, row = self._places[name][slots].T
        for number in np.unique(part):
            vectors[part == number] = self._shards[number].vectors(name, layer)[row[part == number]]
        return vectors


def check(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards in the order of their shares. Raises ShardError where they are not one whole pass."""
    first = shards[0]
    for other in shards[1:]:
        _check_alike(first, other)
    count, given = first.share.count, [shard.share.index for shard in shards]
    for shard in shards:
        if given.count(shard.share.index) > 1:
            twice = " and ".join(str(s.folder) for s in shards if s.share.index == shard.share.index)
            raise ShardError(f"Shard {shard.share} is given more than once: {twice}.", "Give each shard once.")
    missing = [f"{index}/{count}" for index in range(count) if index not in given]
    if missing:
        raise ShardError(
            f"{len(missing)} of {count} shards {'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing)}.",
            f"Make them with luq-gguf profile --shard {missing[0]} and so on, and give all {count} to merge.",
        )
    ordered = sorted(shards, key=lambda shard: shard.share.index)
    _check_whole(ordered)
    return ordered


def _check_alike(first: Shard, other: Shard) -> None:
    def refuse(what: str, a: object, b: object) -> ShardError:
        return ShardError(f"{first.folder} and {other.folder} differ in {what}: {a} and {b}.", SAME)

    if first.facts.model_sha256 != other.facts.model_sha256:
        raise refuse("their model", *(f"{s.facts.model} ({_short(s.facts.model_sha256)})" for s in (first, other)))
    contents = given(first.facts.model_contents), given(other.facts.model_contents)
    if None not in contents and contents[0] != contents[1]:
        raise refuse("the contents of their model", *map(_short, contents))
    for name, energy in first.energies.items():
        if not np.allclose(energy, other.energies.get(name, np.nan), rtol=1e-5):  # devices add up in other orders
            raise ShardError(f"{first.folder} and {other.folder} have different weights ({name}).", SAME)
    for what, key in (("seed", "seed"), ("alpha", "alpha"), ("calibration data", "sha256")):
        a, b = (getattr(shard.facts.calibration, key) for shard in (first, other))
        if a != b:
            raise refuse(what, _short(a), _short(b))
    a, b = (given(shard.facts.calibration.pixels) or PROCESSOR for shard in (first, other))
    if a != b:
        raise refuse("--pixels", a, b)
    a, b = (given(shard.facts.calibration.limited_images) or 0 for shard in (first, other))
    if a != b:
        raise refuse("how many images are at llama.cpp's token limit", a, b)
    for what, key in (("the number of text samples", "n_text_asked"), ("capacity", "capacity"), ("precision", "dtype")):
        a, b = (getattr(shard.facts, key) for shard in (first, other))
        if a != b:
            raise refuse(what, a, b)
    if first.share.count != other.share.count:
        raise refuse("the number of shards", first.share, other.share)


def _short(value: object) -> str:
    return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _check_whole(ordered: Sequence[Shard]) -> None:
    """Samples are numbered through in the order of batches, so whoever has another order batched them differently."""
    replayed = TokenSample(1, 0)
    replay(replayed, [shard.seen for shard in ordered])
    samples = [sample for _, ids, _ in replayed.seen for sample in ids]
    if samples != list(range(len(samples))):
        raise ShardError(
            "The shards' samples do not add up to the whole set with each sample once.",
            "Make all shards with the same versions of luq-gguf and transformers.",
        )


def profile_inputs(ordered: Sequence[Shard]) -> ProfileInputs:
    """Return what a single process's pass would have left, from shards as `check` returns them."""
    first = ordered[0]
    return ProfileInputs(
        first.facts.model,
        first.facts.calibration,
        importance.merge([shard.matrix for shard in ordered]),
        MergedVectors(ordered),
        first.energies,
        first.facts.n_layers,
        first.facts.dtype,
    )


def key_of(ordered: Sequence[Shard]) -> str:
    """Return the key of an interrupted merge: the same shards, made from the same tokens in the same precision."""
    identities = [[s.facts.model_sha256, s.facts.calibration.sha256, s.facts.dtype, str(s.share)] for s in ordered]
    sums = [float(sum(value.sum() for value in s.matrix.in_sum2.values())) for s in ordered]
    return json.dumps([identities, sums])
