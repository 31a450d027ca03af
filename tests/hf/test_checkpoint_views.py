"""Which forms of checkpoints are shown to the converter in another form, and in which."""

import pytest

from luq_gguf.core import checkpoint_view
from luq_gguf.hf import checkpoint_views
from luq_gguf.llamacpp.converter_child import shown


def config(architecture, vision="a tower", hidden=256):
    return {
        "architectures": [architecture],
        "text_config": {"hidden_size": hidden},
        "vision_config": {"model_type": vision},
    }


def names_of(half, view, names):
    """The names under which the converter sees these tensors."""
    rules = [part for part in checkpoint_view.to_json(view) if "names" in part and part["half"] in (half, "both")]
    return [item and item[0] for item in (shown((name, lambda: None), rules) for name in names)]


PIXTRAL = ("language_model.model.embed_tokens.weight", "vision_tower.transformer.layers.0.ffn_norm.weight")
MODULES = ("model.language_model.embed_tokens.weight", "model.vision_tower.ln_pre.weight")


@pytest.mark.parametrize(
    ("architecture", "vision", "saved", "known"),
    [
        ("Qwen2_5_VLForConditionalGeneration", "", ["model.visual.merger.ln_q.weight"], ["visual.merger.ln_q.weight"]),
        (
            "InternVLForConditionalGeneration",
            "",
            ["vision_tower.layernorm.bias"],
            ["model.vision_tower.layernorm.bias"],
        ),
        ("LlavaForConditionalGeneration", "pixtral", PIXTRAL, ["embed_tokens.weight", PIXTRAL[1]]),
        ("Mistral3ForConditionalGeneration", "pixtral", PIXTRAL, ["embed_tokens.weight", PIXTRAL[1]]),
        ("Mistral3ForConditionalGeneration", "pixtral", MODULES, ["embed_tokens.weight", "vision_tower.ln_pre.weight"]),
        (
            "Llama4ForConditionalGeneration",
            "",
            ["vision_model.model.layers.7.post_attention_layernorm.bias", "vision_model.layernorm_post.bias"],
            ["vision_tower.vision_model.encoder.layers.7.layer_norm2.bias", "vision_model.layernorm_post.bias"],
        ),
        (
            "Lfm2VlForConditionalGeneration",
            "",
            ["model.vision_tower.post_layernorm.bias", "model.multi_modal_projector.linear_1.bias"],
            ["vision_tower.vision_model.post_layernorm.bias", "model.multi_modal_projector.linear_1.bias"],
        ),
    ],
)
def test_names_that_transformers_saves_become_those_that_the_converter_knows(architecture, vision, saved, known):
    settings = config(architecture, vision)
    view = checkpoint_views.find(settings, dict.fromkeys(saved, (8, 8)))
    assert names_of("vision", view, saved) == list(known)
    assert names_of("text", view, saved) == list(saved)
    if vision:
        assert checkpoint_views.find(config(architecture, "clip_vision_model"), dict.fromkeys(saved, (8, 8))) == ()


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("Qwen2_5_VLForConditionalGeneration", ["visual.merger.ln_q.weight", "model.embed_tokens.weight"]),
        ("Gemma3ForConditionalGeneration", ["vision_tower.vision_model.post_layernorm.bias"]),
        ("LlamaForCausalLM", ["model.visual.merger.ln_q.weight"]),
    ],
)
def test_a_checkpoint_that_the_converter_knows_is_shown_as_it_is(architecture, names):
    assert checkpoint_views.find(config(architecture), dict.fromkeys(names, (8, 8))) == ()
    assert checkpoint_view.in_key(()) == []  # so results of earlier versions stay what they are


def architectures(architecture, text, vision):
    settings = {"architectures": [architecture], "text_config": text, "vision_config": vision}
    parts = checkpoint_view.to_json(checkpoint_views.find(settings, {}))
    return {part["half"]: part["architecture"] for part in parts}


def test_halves_that_the_converter_knows_by_other_names_are_called_by_them():
    assert architectures("LightOnOcrForConditionalGeneration", {"model_type": "qwen3"}, {}) == {
        "text": "Qwen3ForCausalLM",
        "vision": "LightOnOCRForConditionalGeneration",
    }
    assert architectures("Lfm2VlForConditionalGeneration", {"model_type": "lfm2"}, {}) == {"text": "Lfm2ForCausalLM"}
    named = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, {"architectures": ["InternVisionModel"]}
    assert architectures("InternVLForConditionalGeneration", *named) == {}
    assert architectures("LlamaForCausalLM", {}, {}) == {}


LAYER = "model.language_model.layers.0.mlp.experts."


@pytest.mark.parametrize(
    ("hidden", "width", "as_stored"),
    [(256, 512, True), (256, 128, True), (256, 256, True), (256, 512, False), (256, 128, False), (256, 256, False)],
)
def test_experts_are_transposed_where_they_are_not_as_on_the_hub(hidden, width, as_stored):
    shapes = {f"{LAYER}gate_up_proj": (4, 2 * width, hidden), f"{LAYER}down_proj": (4, hidden, width)}
    if not as_stored:
        shapes = {name: (experts, columns, rows) for name, (experts, rows, columns) in shapes.items()}
    view = checkpoint_views.find(config("Qwen3VLMoeForConditionalGeneration", hidden=hidden), shapes)
    assert bool(view) == as_stored
    if view:
        import torch

        read = shown((f"{LAYER}down_proj", lambda: torch.zeros(4, hidden, width)), checkpoint_view.to_json(view))
        assert read[1]().shape == (4, width, hidden)


def test_a_tensor_that_is_left_out_is_not_shown():
    view = checkpoint_views.find(config("LlamaForCausalLM"), {"lm_head.weight": (8, 8)}, {"lm_head.weight"})
    assert names_of("text", view, ["lm_head.weight", "xlm_head.weight"]) == [None, "xlm_head.weight"]
