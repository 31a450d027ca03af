"""LLaVA-1.5 as it is on the Hub, 7B and 13B: the preflight knows all of the file from headers, in seconds.

The weights are holes in sparse files.
"""

import json

import pytest
from families import by_name

from luq_gguf.benchmarking.synthetic_model import sparse_safetensors
from luq_gguf.method import two_type_plan
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import load_model_spec

SIZES = {
    # hidden, feed-forward, layers, heads; bytes of llama.cpp's own Q4_K_M of the same decoder with 32,000 tokens
    "7b": (4096, 11008, 32, 32, 4_081_004_224),
    "13b": (5120, 13824, 40, 40, 7_865_956_224),
}


def on_the_hub(name: str) -> str:
    """Where transformers 5 says model.language_model.layers, the published files say language_model.model.layers."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head", "language_model.lm_head")
    return name.replace("model.vision_tower.", "vision_tower.vision_model.").replace("model.multi_modal", "multi_modal")


@pytest.mark.parametrize("size", SIZES)
def test_llava_of_the_hub_is_known_at_the_door(size, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText, LlavaConfig

    hidden, ffn, layers, heads, stock_bytes = SIZES[size]
    family = by_name("llava-1.5")
    folder = family.build(tmp_path / f"llava-1.5-{size}-hf")
    before = json.loads((folder / "config.json").read_text())
    text = {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": 32064, "max_position_embeddings": 4096,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=before["image_token_index"], image_seq_length=576
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    pictures = json.loads((folder / "processor_config.json").read_text())
    pictures["image_processor"] |= {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    (folder / "processor_config.json").write_text(json.dumps(pictures))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    (folder / "model.safetensors").unlink()
    shapes = {on_the_hub(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    sparse_safetensors(folder / "model.safetensors", shapes)

    with RunFolder(tmp_path / "run", create=True) as run:
        spec = load_model_spec(run, str(folder))
    assert spec.tensors.n_layers == layers
    assert spec.clip is not None
    assert (spec.clip.image_size, spec.clip.feature_layers, spec.clip.text_width) == (336, (23,), hidden)
    assert spec.tensors.without_importance == ()
    more_tokens = 2 * 64 * hidden  # embedding and head
    expected = stock_bytes + more_tokens * 6 / 8
    assert two_type_plan.file_bytes(spec.tensors, ()) == pytest.approx(expected, rel=2e-3)
    half = two_type_plan.bits_per_weight(spec.tensors, range(layers // 2))
    assert (
        two_type_plan.bits_per_weight(spec.tensors, range(layers))
        < half
        < two_type_plan.bits_per_weight(spec.tensors, ())
    )
