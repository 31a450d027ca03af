"""IBM's Granite 4 Vision."""

from __future__ import annotations

from typing import Any

import torch

from .family import TEXT, Family, chat

_SIDE = 128


def _granite4_vision(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Granite4VisionConfig, Granite4VisionForConditionalGeneration, Granite4VisionProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    text = TEXT | {
        "vocab_size": len(tokenizer), "model_type": "granite4_vision_text", "num_hidden_layers": 6,
        "architectures": ["GraniteForCausalLM"],
        "embedding_multiplier": 2.0, "attention_multiplier": 0.125, "residual_multiplier": 0.5, "logits_scaling": 2.0,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 2,
        "image_size": _SIDE, "patch_size": 16, "model_type": "siglip_vision_model",
    }  # fmt: skip
    pinpoints = [[_SIDE, _SIDE], [_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]]
    config = Granite4VisionConfig(
        text_config=text, vision_config=vision, image_token_index=ids["<image>"], image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full", downsample_rate="1/2", spatial_target_layers=[2, 3, 4, 5],
        deepstack_layer_map=[[-3, 1], [-2, 0]],  # ascending, as published: the converter sorts it
        qformer_config={
            "model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 256,
            "cross_attention_frequency": 1, "use_qformer_text_input": False,
        },
    )  # fmt: skip
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}, image_grid_pinpoints=pinpoints,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    processor = Granite4VisionProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="full", downsample_rate="1/2"
    )
    model = Granite4VisionForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # transformers leaves some of these as they are allocated
        if name.endswith((".query", ".image_positions", "image_newline")):
            torch.nn.init.normal_(parameter, std=0.08)
    return model, processor


FAMILIES = (
    Family(
        "granite-4-vision", ("<|im_start|>", "<|im_end|>", "<image>"), "<|im_end|>", False,
        chat("<|im_start|>", "<|im_end|>", "<image>\n", "assistant"), _granite4_vision, "<image>\n",
        drop=("<image>",), byte_level=True, side=_SIDE,
        hub_names=("model.vision_tower.", "model.vision_tower.vision_model."),
        other_tokens=True,
        remarks="deepstack from several layers of the vision half; libmtmd ends a picture with a line break of its own",
    ),
)  # fmt: skip
