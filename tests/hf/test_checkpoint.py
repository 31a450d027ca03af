"""Wrong checkpoints are refused in one sentence; nothing but headers is read."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from luq_gguf.core.errors import CheckpointError, DownloadError
from luq_gguf.hf.checkpoint import open_checkpoint, safetensors_shapes

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.norm.weight": np.ones(8, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def refusal(folder, **options) -> str:
    """What a user is told: one sentence what is wrong; that there is one what to do is seen to here."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder), **options)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_whole_checkpoint_opens(folder):
    opened = open_checkpoint(str(folder))
    assert opened.shapes == {"model.norm.weight": (8,)}
    assert opened.architecture == "LlamaForCausalLM"
    assert not opened.has_vision


def test_the_fingerprint_follows_the_files(folder):
    before = open_checkpoint(str(folder)).fingerprint
    assert open_checkpoint(str(folder)).fingerprint == before
    save_file({"model.norm.weight": np.ones(16, np.float32)}, folder / "model.safetensors")
    assert open_checkpoint(str(folder)).fingerprint != before


def test_a_folder_without_config(tmp_path):
    assert "is not a checkpoint: it has no config.json" in refusal(tmp_path)


def test_no_such_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere" / "at" / "all")


def test_a_file_is_no_folder(folder):
    assert "is a file" in refusal(folder / "config.json")


def test_a_hub_id_offline():
    with pytest.raises(DownloadError, match="could not be downloaded") as caught:
        open_checkpoint("nobody/no-such-model")
    assert "HF_HUB_OFFLINE" in caught.value.hint


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": 3}'], ids=["cut", "list", "no architectures"])
def test_a_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


def test_a_missing_shard(folder):
    index = {"weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks the shard model-2.safetensors" in refusal(folder)


def test_a_shard_name_that_leaves_the_folder(folder):
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "does not name any usable shards" in refusal(folder)


def test_a_tensor_that_no_shard_holds(folder):
    index = {"weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lack the tensor lm_head.weight" in refusal(folder)


@pytest.mark.parametrize(
    "keep", [4, 12, 60, -1], ids=["in the length", "in the header", "before the data", "in the data"]
)
def test_truncated_safetensors(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors is truncated or damaged" in refusal(folder)


def test_a_header_longer_than_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        safetensors_shapes(path)


def test_pickles_only(folder):
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    assert "weights only as pickles" in refusal(folder)


def test_remote_code_is_named_and_runs_on_request_alone(folder):
    (folder / "config.json").write_text(json.dumps({"architectures": ["Own"], "model_type": "own", "auto_map": {}}))
    assert "needs code from its repository" in refusal(folder)
    assert open_checkpoint(str(folder), trust_remote_code=True).architecture == "Own"


def test_an_architecture_unknown_to_transformers(folder):
    (folder / "config.json").write_text(json.dumps({"architectures": ["Own"], "model_type": "own"}))
    assert "does not know the architecture Own" in refusal(folder)
