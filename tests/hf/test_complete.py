"""What a checkpoint lacks is named by its headers alone; values that no 16-bit file holds as soon as they are read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import model as hf_model
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.devices import Placement

QWEN, LLAVA = "tiny-qwen2.5-vl", "tiny-llava-1.5"


@pytest.fixture
def altered(models, tmp_path, monkeypatch):
    """Makes a copy of a trained model with other tensors: name -> tensor to the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name, change):
        folder = tmp_path / "altered"
        shutil.copytree(models / name, folder)
        tensors = {key: tensor.clone() for key, tensor in change(load_file(folder / "model.safetensors")).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def check(folder):
    opened = open_checkpoint(str(folder))
    hf_model.check_complete(hf_model.meta_model(opened), opened)


def without(*starts):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def prefixed(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def test_the_trained_models_are_complete(tiny_model):
    check(tiny_model)


def test_a_norm_that_nothing_reads_may_be_missing(altered):
    check(altered(LLAVA, without("vision_tower.vision_model.post_layernorm", "vision_tower.post_layernorm")))


@pytest.mark.parametrize(
    ("model", "change", "name"),
    [
        (QWEN, without("visual."), "model.visual.blocks.0"),
        (QWEN, without("visual.blocks.3."), "model.visual.blocks.3."),
        (QWEN, without("lm_head."), "lm_head.weight"),
        (QWEN, without("model.layers.2.input_layernorm"), "model.language_model.layers.2.input_layernorm.weight"),
        (QWEN, without("model.layers.2.mlp.up_proj"), "model.language_model.layers.2.mlp.up_proj.weight"),
        (QWEN, without("model.embed_tokens"), "model.language_model.embed_tokens.weight"),
        (LLAVA, without("vision_tower"), "model.vision_tower."),
        (LLAVA, without("multi_modal_projector"), "model.multi_modal_projector.linear_1."),
        (QWEN, prefixed("_orig_mod."), "transformers does not know _orig_mod."),
        (LLAVA, prefixed("module."), "transformers does not know module."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_transformers_would_make_up_is_named(altered, capfd, model, change, name):
    folder = altered(model, change)
    with pytest.raises(CheckpointError) as caught:
        check(folder)
    assert "altered has no weights for" in caught.value.message
    assert name in caught.value.message + caught.value.hint
    assert "MISSING" not in capfd.readouterr().err  # transformers' own table


def test_embeddings_of_another_length_than_the_config_says(altered):
    def more(tensors):
        rows = {name: tensors[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
        return tensors | {name: torch.cat([tensor, tensor[:3]]) for name, tensor in rows.items()}

    with pytest.raises(CheckpointError, match="has the shape 771 x 256, but its config.json says 768 x 256"):
        check(altered(QWEN, more))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.layers.3.mlp.up_proj.weight", float("nan"), "not finite"),
        ("model.layers.3.input_layernorm.weight", float("-inf"), "not finite"),
        ("model.embed_tokens.weight", float("nan"), "not finite"),
        ("visual.blocks.1.mlp.up_proj.weight", float("inf"), "not finite"),
        ("model.layers.3.mlp.up_proj.weight", 1e5, "values up to 99,"),
        ("visual.blocks.1.mlp.up_proj.weight", -1e5, "values up to 99,"),
    ],
)
def test_values_that_no_file_can_hold_end_before_the_pass(altered, name, value, words):
    def change(tensors):
        tensors[name].view(-1)[5] = value
        return tensors

    opened = open_checkpoint(str(altered(QWEN, change)))
    with pytest.raises(CheckpointError) as caught:
        hf_model.load_reference(opened, Placement(torch.device("cpu")))
    assert words in caught.value.message
    assert name.removeprefix("model.") in caught.value.message


def test_a_large_value_in_a_norm_is_no_harm(altered):
    def change(tensors):
        tensors["model.layers.3.input_layernorm.weight"][5] = 1e5  # written in 32 bits
        return tensors

    opened = open_checkpoint(str(altered(QWEN, change)))
    model, _ = hf_model.load_reference(opened, Placement(torch.device("cpu")))
    values = [float(tensor.detach().max()) for name, tensor in model.named_parameters() if "input_layernorm" in name]
    assert max(values) == pytest.approx(1e5, rel=0.01), "it was loaded as it is"


def test_a_tied_head_may_be_missing(altered):
    folder = altered(QWEN, without("lm_head."))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    check(folder)
