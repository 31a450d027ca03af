"""Layers of multi-token prediction are those whose weights are there, whatever config.json says."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.multi_token import agreeing

DECODER = [f"model.language_model.layers.{n}.mlp.up_proj.weight" for n in range(4)]
MTP = ["mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight", "mtp.norm.weight"]
BEHIND = ["model.layers.4.eh_proj.weight", "model.layers.4.enorm.weight", "model.layers.4.mlp.up_proj.weight"]


def config(kind, architecture="AnyForConditionalGeneration", **claims):
    text = {"model_type": kind, "num_hidden_layers": 4} | claims
    return {"architectures": [architecture], "model_type": "any", "text_config": text}


@pytest.mark.parametrize(
    ("given", "tensors", "shown", "options"),
    [
        (config("qwen3_5_text", mtp_num_hidden_layers=1), MTP, {"mtp_num_hidden_layers": 1}, ()),
        (config("qwen3_5_text", mtp_num_hidden_layers=1), [], {"mtp_num_hidden_layers": 1}, ("--no-nextn",)),
        (config("qwen3_5_moe_text", mtp_num_hidden_layers=0), [], {"mtp_num_hidden_layers": 0}, ("--no-nextn",)),
        (config("qwen3_5_moe_text"), [], {}, ("--no-nextn",)),
        (config("qwen3_5_moe_text"), MTP, {"mtp_num_hidden_layers": 1}, ()),
        (config("qwen3_5_text", mtp_num_hidden_layers=None), MTP, {"mtp_num_hidden_layers": 1}, ()),
        (
            config("qwen3_5_text", "MiniCPMV4_6ForConditionalGeneration", mtp_num_hidden_layers=1),
            MTP, {"mtp_num_hidden_layers": 1}, ("--no-nextn",),
        ),
        (config("mimo_v2_flash"), [], {}, ("--no-nextn",)),
        (config("mimo_v2_flash"), ["model.mtp.layers.0.mlp.up_proj.weight"], {}, ()),
        (config("glm_ocr_text", num_nextn_predict_layers=1), [], {"num_nextn_predict_layers": 0}, ()),
        (config("glm_ocr_text", num_nextn_predict_layers=1), BEHIND, {"num_nextn_predict_layers": 1}, ()),
        (config("glm4v_moe_text", num_mtp_layers=1), BEHIND, {"num_nextn_predict_layers": 1}, ()),
        (config("nemotron_h"), ["mtp.layers.0.eh_proj.weight", "mtp.layers.1.norm.weight"],
         {"num_nextn_predict_layers": 1}, ()),
        (config("ernie4_5_moe", num_nextn_predict_layers=1), ["model.mtp_block.0.mlp.up_proj.weight"],
         {"num_nextn_predict_layers": 1}, ()),
        (config("llama"), ["model.layers.4.mlp.up_proj.weight"], {}, ()),  # config.json is of a shorter model
        (config("llama"), [], {}, ()),
    ],
)  # fmt: skip
def test_config_and_options_agree_with_the_tensors(given, tensors, shown, options):
    before = json.dumps(given)
    made = agreeing(given, DECODER + tensors)
    claims = {k: v for k, v in made.config["text_config"].items() if k.startswith(("mtp_", "num_nextn"))}
    assert claims == shown
    assert made.options == options
    assert json.dumps(given) == before
    assert (made.config is given) == (claims == {k: given["text_config"].get(k) for k in shown})


def test_a_config_without_halves_is_read_where_it_is():
    given = {"architectures": ["Any"], "model_type": "glm4_moe", "num_hidden_layers": 4, "num_nextn_predict_layers": 1}
    assert agreeing(given, DECODER).config["num_nextn_predict_layers"] == 0
    assert agreeing(given, BEHIND).config is given


def test_a_claim_that_an_option_answers_is_told():
    (note,) = agreeing(config("qwen3_5_text", mtp_num_hidden_layers=1), DECODER).notes
    assert note == "the layers that mtp_num_hidden_layers in config.json counts are left out: the weights hold none"
    assert agreeing(config("qwen3_next"), DECODER).notes == ()


def test_the_converter_is_shown_the_config_that_agrees(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tuned"
    folder.mkdir()
    given = {"architectures": ["GlmOcrForConditionalGeneration"], "model_type": "glm_ocr"}
    given |= {"text_config": {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}}
    (folder / "config.json").write_text(json.dumps(given))
    save_file({"model.language_model.layers.0.a": np.ones(8, np.float32)}, folder / "model.safetensors")
    opened = open_checkpoint(str(folder))
    shown = json.loads((opened.folder / "config.json").read_text())
    assert shown["text_config"]["num_nextn_predict_layers"] == 0
    assert shown == opened.config
    assert opened.folder != folder
    assert opened.notes == ("num_nextn_predict_layers in config.json is read as 0: the weights hold no such layers",)
