"""Chunks of pictures and questions to train on."""

import numpy as np
import pytest
import torch

from instrument import draw, pool, vocabulary
from instrument.batches import QUESTIONS, Batches, changed, kept_layers
from instrument.prompts import Prompts
from luq_gguf.core.errors import LuqError


@pytest.fixture
def chunks(small_pool, fresh):
    digest = Prompts.of(fresh).digest
    assert pool.complete(small_pool, digest) == 2
    return [pool.load(small_pool, number, digest) for number in range(2)]


def test_a_chunk_holds_the_drawn_samples(chunks, fresh):
    prompts = Prompts.of(fresh)
    for number, chunk in enumerate(chunks):
        for i, (split, sample) in enumerate(draw.for_training(number, 16)):
            assert np.array_equal(chunk.pixels[i], sample.picture)
            assert chunk.counts[i] == min(pool.ASKED, len(sample.asked))
            for j in range(chunk.counts[i]):
                tokens = prompts.tokens(sample.asked[j])
                assert tuple(chunk.sizes[i, j]) == (len(tokens.ids), tokens.n_answer)
                assert chunk.ids[i, j, : len(tokens.ids)].tolist() == tokens.ids
            letters = [vocabulary.LETTERS[k] for k in chunk.words[i] if 0 <= k < pool.NO_LETTER]
            assert "".join(letters) == (sample.asked[0].answer if split == "read" else "")


def test_what_is_there_is_not_drawn_again(small_pool, fresh, models, tmp_path):
    prompts = Prompts.of(fresh)
    pool.fill(tmp_path, [prompts], 1, 1, size=16)
    for name in ("0000.npy", f"0000.{prompts.digest}.npz"):
        assert (tmp_path / name).read_bytes() == (small_pool / name).read_bytes()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    pool.fill(tmp_path, [prompts], 1, 1, size=16)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert pool.complete(tmp_path, prompts.digest) == 1
    assert pool.complete(tmp_path, Prompts.of(models / "tiny-qwen2.5-vl").digest) == 0


def test_another_recipe_is_refused(small_pool, fresh):
    with pytest.raises(LuqError, match="another recipe") as caught:
        pool.fill(small_pool, [Prompts.of(fresh)], 3, 1, size=32)
    assert "16 pictures a chunk" in caught.value.message


def test_a_step_alone_decides_what_is_seen(chunks):
    batches = Batches(chunks, 8, seed=5)
    following = batches.following(3)
    for step in (3, 4, 5):
        for one, same in zip(batches.of(step), next(following), strict=True):
            assert torch.equal(one, same)
    following.close()
    assert not torch.equal(batches.of(3).pictures, batches.of(4).pictures)
    assert not torch.equal(batches.of(3).pictures, Batches(chunks, 8, seed=6).of(3).pictures)


def test_questions_of_a_batch_are_about_its_pictures(chunks):
    batch = Batches(chunks, 64, seed=1).of(0)
    known = {
        chunk.pixels[i].tobytes(): {chunk.ids[i, j].tobytes() for j in range(chunk.counts[i])}
        for chunk in chunks
        for i in range(len(chunk.pixels))
    }
    assert batch.ids.shape[:2] == (64, QUESTIONS)
    for picture, ids in zip(batch.pictures, batch.ids, strict=True):
        assert {row.numpy().tobytes() for row in ids} <= known[picture.numpy().tobytes()]


def test_changes_of_a_picture_are_small_and_those_of_the_step():
    pixels = torch.arange(2 * 3 * 12 * 12.0).reshape(2, 3, 12, 12)
    one, same, other = (changed(pixels, 0, step) for step in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    flat = changed(torch.ones(500, 3, 12, 12), 0, 0)
    assert torch.equal(flat, flat[:, :1, :1, :1].expand_as(flat))  # a shift of what is flat changes nothing
    assert abs(float(flat[:, 0, 0, 0].std()) - 0.1 * 2**0.5) < 0.02  # contrast and brightness, a tenth each


def test_layers_are_left_out_as_often_as_asked_for():
    assert torch.equal(kept_layers(12, 0.0, 0, 3), torch.ones(12))
    kept = torch.stack([kept_layers(12, 0.25, 0, step) for step in range(200)])
    assert torch.equal(kept[3], kept_layers(12, 0.25, 0, 3))
    assert abs(float(kept.mean()) - 0.75) < 5 * (0.25 * 0.75 / kept.numel()) ** 0.5
