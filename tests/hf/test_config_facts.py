"""Entries of config.json that transformers writes otherwise than llama.cpp's converter reads them."""

import pytest

from luq_gguf.hf import config_facts

pytestmark = pytest.mark.quick


def test_a_config_that_lacks_what_its_family_needs_is_completed_and_says_so():
    config = {"model_type": "kimi_vl", "text_config": {"model_type": "deepseek_v3"}, "vision_config": None}
    completed, notes = config_facts.complete(config)
    assert completed["text_config"] == {"model_type": "deepseek_v3", "scoring_func": "sigmoid"}
    assert notes == (
        "config.json is read with scoring_func as llama.cpp's converter needs it for deepseek_v3: sigmoid",
    )
    assert config["text_config"] == {"model_type": "deepseek_v3"}


HUB = (
    {"model_type": "deepseek_v3", "scoring_func": "softmax"},
    {"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]},
    {"model_type": "llama"},
    {"model_type": ["x"]},
)


@pytest.mark.parametrize("config", HUB)
def test_what_a_config_of_the_hub_says_is_kept(config):
    assert config_facts.complete(config) == (config, ())


@pytest.mark.parametrize(
    ("kinds", "wanted"), [(["dense", "dense", "sparse"], 2), (["sparse"] * 3, 0), (["dense"] * 3, None), (None, None)]
)
def test_leading_dense_layers_are_counted_where_the_config_lists_them(kinds, wanted):
    completed, _ = config_facts.complete({"model_type": "glm4_moe_lite", "mlp_layer_types": kinds})
    assert completed.get("first_k_dense_replace") == wanted


def test_hybrid_layers_have_the_names_of_the_hub():
    config = {"model_type": "granitemoehybrid", "layer_types": ["linear_attention", "full_attention"]}
    assert config_facts.complete(config)[0]["layer_types"] == ["mamba", "attention"]
