"""Reservoirs of any split of the batches, merged, are the reservoir of a single process."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luq_gguf.calibration.merge import places, replay
from luq_gguf.calibration.reservoir import MODALITIES, TokenSample

batch = st.lists(st.integers(0, 12), min_size=1, max_size=4)


def numbered(multimodal: list[list[int]], text: list[list[int]]):
    """Batches of samples numbered through, as batches.batches makes them."""
    found, first = [], 0
    for is_multimodal, group in [*((True, b) for b in multimodal), *((False, b) for b in text)]:
        found.append((is_multimodal, tuple(range(first, first + len(group))), tuple(group)))
        first += len(group)
    return found


def fed(batches, capacity: int, seed: int) -> tuple[TokenSample, dict[str, np.ndarray]]:
    """What was kept of these batches, and which token (sample, position) was written into each slot."""
    kept = TokenSample(capacity, seed)
    written = {name: np.full((capacity, 2), -1) for name in MODALITIES}
    for multimodal, ids, lengths in batches:
        tokens, slots = kept.choose(ids, list(lengths), multimodal=multimodal)
        all_tokens = np.array([(i, p) for i, n in zip(ids, lengths, strict=True) for p in range(n)]).reshape(-1, 2)
        written[MODALITIES[0 if multimodal else 1]][slots] = all_tokens[tokens]
    return kept, written


@given(
    multimodal=st.lists(batch, max_size=8),
    text=st.lists(batch, max_size=8),
    count=st.integers(1, 5),
    capacity=st.integers(1, 40),
    seed=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_merged_shares_are_the_single_process(multimodal, text, count, capacity, seed):
    batches = numbered(multimodal, text)
    whole, its_tokens = fed(batches, capacity, seed)
    shares = [fed(batches[index::count], capacity, seed) for index in range(count)]
    merged = TokenSample(capacity, seed)
    replay(merged, [kept.seen for kept, _ in shares])
    for name in MODALITIES:
        held = [np.isfinite(kept.keys[name]) for kept, _ in shares]
        keys = [kept.keys[name][h] for (kept, _), h in zip(shares, held, strict=True)]
        samples = [kept.samples[name][h] for (kept, _), h in zip(shares, held, strict=True)]
        tokens = [written[name][h] for (_, written), h in zip(shares, held, strict=True)]
        np.testing.assert_array_equal(merged.keys[name], whole.keys[name])
        np.testing.assert_array_equal(merged.samples[name], whole.samples[name])
        smallest = np.sort(np.concatenate([*keys, np.full(capacity, np.inf)]))[:capacity]
        np.testing.assert_array_equal(np.sort(merged.keys[name]), smallest)
        for (part, row), token in zip(places(merged, name, keys, samples), its_tokens[name], strict=True):
            assert tuple(tokens[part][row] if part >= 0 else (-1, -1)) == tuple(token)
