"""A checkpoint in parts: every tensor of the text model once, with its bytes, in checkpoints that open."""

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from luq_gguf.hf import slices
from luq_gguf.hf.checkpoint import open_checkpoint

CONFIG = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}


@pytest.fixture
def checkpoint(tmp_path):
    """Two shards, neither with whole layers alone; a vision half whose names have layers too."""
    folder, rng = tmp_path / "whole-7B", np.random.default_rng(0)
    folder.mkdir()
    names = ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"]
    names += [f"language_model.model.layers.{n}.{kind}.weight" for n in range(9) for kind in ("up", "down", "norm")]
    names += ["vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight", "multi_modal_projector.linear_1.weight"]
    for shard in range(2):
        held = {name: rng.normal(size=(4, 8)).astype(np.float16) for name in names[shard::2]}
        save_file(held, folder / f"model-{shard}.safetensors")
    weight_map = {name: f"model-{at % 2}.safetensors" for at, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    return open_checkpoint(str(folder))


def test_layers_stay_whole_and_the_vision_half_is_left_out(checkpoint, monkeypatch):
    monkeypatch.setattr(slices, "_SMALLEST", 0)
    found = slices.slices(checkpoint)
    assert sorted(found[0]) == ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    layers = [{name.split(".layers.")[1].split(".")[0] for name in part} for part in found[1:]]
    assert layers == [{str(n)} for n in range(9)], "a layer is as large as what is in no layer"
    assert all(len(part) == 3 for part in found)


def test_small_models_have_few_parts(checkpoint):
    first, second = slices.slices(checkpoint)
    assert len(first) == 3
    assert len(second) == 27
    assert slices.slice_bytes(checkpoint, second) == 27 * 64


def test_a_part_is_a_checkpoint_with_the_same_tensors(checkpoint, tmp_path):
    whole = {
        name: array
        for shard in range(2)
        for name, array in load_file(checkpoint.folder / f"model-{shard}.safetensors").items()
    }
    for number, names in enumerate(slices.slices(checkpoint)):
        folder = tmp_path / f"{number}"
        slices.write(checkpoint, names, folder)
        opened = open_checkpoint(str(folder))
        assert set(opened.shapes) == set(names)
        assert opened.config == checkpoint.config
        assert (folder / "tokenizer.json").read_text() == "{}"
        assert not (folder / "model.safetensors.index.json").exists()
        for name, array in load_file(folder / "model.safetensors").items():
            np.testing.assert_array_equal(array, whole[name])
            assert array.dtype == np.float16


def test_with_an_injected_failing_symlink_small_files_are_copied(checkpoint, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    folder = tmp_path / "slice"
    slices.write(checkpoint, slices.slices(checkpoint)[0], folder)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert open_checkpoint(str(folder)).config == checkpoint.config
