"""Which shards are refused, and what is read back of those that are not. No model: the little pass is made up."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from luq_gguf.calibration import distributed_pass, merge
from luq_gguf.calibration import shards as shard_files
from luq_gguf.calibration.forward_pass import PassResult
from luq_gguf.calibration.profiler import calibration_facts
from luq_gguf.calibration.reservoir import Reservoir
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.errors import RankError, ShardError
from luq_gguf.core.types import ImportanceMatrix, ShardSpec
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.run.folder import RunFolder

WIDTH, LAYERS, CAPACITY = 3, 2, 16
BATCHES = [(True, (0, 1), (5, 4)), (True, (2,), (6,)), (False, (3, 4), (9, 2)), (False, (5,), (7,))]
CALIBRATION = CalibrationData((), (), "a text", 3, 0.5, 0, "f" * 64, "set", "text")
FACTS = calibration_facts(CALIBRATION)


def make_shard(folder, share, dtype=torch.float32, sums=None):
    """A finished shard folder of a pass whose vectors are (sample, position, layer)."""
    with RunFolder(folder, create=True) as run:
        reservoir = Reservoir(run.work, CAPACITY, LAYERS, WIDTH, dtype, seed=0)
        for multimodal, ids, lengths in BATCHES[share.index :: share.count]:
            tokens, slots = reservoir.choose(ids, list(lengths), multimodal=multimodal)
            rows = [(i, p) for i, n in zip(ids, lengths, strict=True) for p in range(n)]
            for layer in range(LAYERS):
                vectors = torch.tensor([[*rows[t], layer] for t in tokens], dtype=torch.float32).reshape(-1, WIDTH)
                if len(slots):
                    reservoir.write(layer, slots, vectors, multimodal=multimodal)
        n = sum(sum(lengths) for _, _, lengths in reservoir.seen)
        sums = np.full((1, 2), float(n)) if sums is None else sums
        matrix = ImportanceMatrix({"x": sums}, {"x": np.array([n])}, len(reservoir.seen))
        pass_result = PassResult(matrix, reservoir, {"x": np.array([1.0, 2.0])}, dtype)
        checkpoint = Checkpoint(folder, "little", {"architectures": ["Little"]}, {}, {}, {}, 0, "fingerprint")
        run.update(model="little")

        def make():
            shard_files.write(run.path, share, checkpoint, CALIBRATION, pass_result, "key")

        run.run_stage("shard", str(share), shard_files.names(LAYERS), make)
        reservoir.close()
    return folder


@pytest.fixture
def folders(tmp_path):
    return [make_shard(tmp_path / f"shard-{i}", ShardSpec(i, 3)) for i in range(3)]


@pytest.fixture
def shards(folders):
    return [shard_files.read(folder) for folder in folders]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_vectors_are_a_single_process_vectors(tmp_path, dtype):
    parts = [shard_files.read(make_shard(tmp_path / f"{i}", ShardSpec(i, 3), dtype)) for i in range(3)]
    alone = merge.MergedVectors([shard_files.read(make_shard(tmp_path / "alone", ShardSpec(), dtype))])
    merged = merge.MergedVectors(merge.check(parts[::-1]))
    for group in ("all", "multimodal", "text"):
        for layer in range(LAYERS):
            np.testing.assert_array_equal(merged.vectors(group, layer), alone.vectors(group, layer))
    assert len(merged.vectors("all", 0)) == CAPACITY < merged.count("multimodal") + merged.count("text")
    assert merged.samples_of_all().tolist() == alone.samples_of_all().tolist()


def test_sums_are_read_back_whatever_their_order_in_memory(tmp_path):
    turned = np.arange(6.0).reshape(2, 3).T
    shard = shard_files.read(make_shard(tmp_path / "shard", ShardSpec(), sums=turned))
    assert shard.matrix.in_sum2["x"].tolist() == turned.tolist()


def test_sums_and_counts_add_up(shards):
    passed = merge.profile_inputs(merge.check(shards))
    assert passed.matrix.counts["x"].tolist() == [33]
    assert passed.matrix.in_sum2["x"].tolist() == [[33.0, 33.0]]


def test_a_missing_shard_is_named(folders, tmp_path):
    with pytest.raises(ShardError, match=r"2 of 3 shards are missing: 0/3, 2/3"):
        distributed_pass.merge([folders[1]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_given_twice_is_named(folders, tmp_path):
    with pytest.raises(ShardError, match=r"Shard 1/3 is given more than once: \S+shard-1 and \S+shard-1"):
        distributed_pass.merge([*folders, folders[1]], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_sha256": "0" * 64, "model": "big"}, "differ in their model: little .* and big"),
        ({"model_contents": "0" * 24}, "differ in the contents of their model"),
        ({"calibration": replace(FACTS, seed=7)}, "differ in seed: 0 and 7"),
        ({"calibration": replace(FACTS, alpha=0.25)}, "differ in alpha: 0.5 and 0.25"),
        ({"calibration": replace(FACTS, sha256="e" * 64)}, "calibration data: f{12} and e{12}"),
        ({"calibration": replace(FACTS, pixels="deployed")}, "differ in --pixels: processor and deployed"),
        ({"calibration": replace(FACTS, limited_images=2)}, "llama.cpp's token limit: 0 and 2"),
        ({"n_text_asked": 4}, "number of text samples: 3 and 4"),
        ({"dtype": "bfloat16"}, "precision: float32 and bfloat16"),
    ],
    ids=["model", "contents", "seed", "alpha", "data", "pixels", "limit", "samples", "precision"],
)
def test_shards_of_different_passes_are_refused(shards, change, told):
    other = replace(shards[1], facts=replace(shards[1].facts, **change))
    with pytest.raises(ShardError, match=told):
        merge.check([shards[0], other, shards[2]])


def test_shards_of_other_weights_are_refused(shards):
    other = replace(shards[1], energies={"x": np.array([1.0, 2.001])})
    with pytest.raises(ShardError, match="have different weights"):
        merge.check([shards[0], other, shards[2]])


def test_shards_of_another_division_are_refused(shards, tmp_path):
    half = shard_files.read(make_shard(tmp_path / "half", ShardSpec(1, 2)))
    with pytest.raises(ShardError, match="number of shards: 0/3 and 1/2"):
        merge.check([shards[0], half])


def test_shards_that_batched_the_samples_differently_are_refused(shards):
    with pytest.raises(ShardError, match="do not add up to the whole set"):
        merge.check([shards[0], replace(shards[1], seen=shards[2].seen), shards[2]])


def test_a_token_that_no_shard_kept_is_refused(shards):
    short = {name: keys[:0] for name, keys in shards[2].keys.items()}
    cut = {name: samples[:0] for name, samples in shards[2].samples.items()}
    with pytest.raises(ShardError, match="None of the shards kept"):
        merge.profile_inputs([*shards[:2], replace(shards[2], keys=short, samples=cut)])


@pytest.mark.parametrize("name", ["shard.json", "shard.safetensors", "vectors-001.safetensors"])
@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_file_is_named(folders, tmp_path, name, damage):
    path = folders[2] / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "changed":
        content[-2] ^= 1
        path.write_bytes(content)
    with pytest.raises(ShardError, match=f"{name} is missing or damaged"):
        distributed_pass.merge(folders, tmp_path / "out")


def test_files_that_are_no_shard_are_refused_in_a_sentence(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="is not a shard"):
        distributed_pass.merge([*folders[:2], tmp_path / "empty"], tmp_path / "out")
    with RunFolder(folders[2]) as run:
        run.forget("shard")
    with pytest.raises(ShardError, match="does not contain a finished shard"):
        distributed_pass.merge(folders, tmp_path / "out")
    facts = json.loads((folders[1] / "shard.json").read_text())
    (folders[1] / "shard.json").write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(ShardError, match="another version"):
        shard_files.read(folders[1])
    (folders[1] / "shard.safetensors").write_bytes(b"\0" * 100)
    (folders[1] / "shard.json").write_text(json.dumps(facts))
    with pytest.raises(ShardError, match="cannot be read"):
        shard_files.read(folders[1])


def test_a_shard_is_not_merged_into_itself(folders):
    with pytest.raises(ShardError, match="is one of the shards"):
        distributed_pass.merge(folders, folders[0])


def test_a_rank_whose_shard_cannot_be_seen_is_named(folders, tmp_path):
    distributed_pass._check_seen(folders)
    with pytest.raises(RankError, match="Rank 3 has finished, but its shard is not in"):
        distributed_pass._check_seen([*folders, tmp_path / "elsewhere"])
