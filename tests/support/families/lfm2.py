"""Liquid AI's LFM2 with pictures."""

from __future__ import annotations

from typing import Any

from .family import TEXT, Family, chat


def _lfm2_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlProcessor
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    text = TEXT | {
        "vocab_size": len(tokenizer), "model_type": "lfm2", "num_hidden_layers": 4, "block_auto_adjust_ff_dim": False,
        "architectures": ["Lfm2ForCausalLM"],
        "layer_types": ["conv", "conv", "full_attention", "conv"],
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
        "patch_size": 16, "num_patches": 64, "vision_use_head": False,
    }  # fmt: skip
    config = Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<image>"], projector_hidden_size=256,
        tie_word_embeddings=True,
    )  # fmt: skip
    pictures = Lfm2VlImageProcessor(do_image_splitting=False)
    return Lfm2VlForConditionalGeneration(config), Lfm2VlProcessor(pictures, tokenizer)


FAMILIES = (
    Family(
        "lfm2-vl",
        ("<|im_start|>", "<|im_end|>", "<|image_start|>", "<|image_end|>", "<image>", "<|img_thumbnail|>"),
        "<|im_end|>",
        True,
        chat("<|im_start|>", "<|im_end|>", "<image>", "assistant"),
        _lfm2_vl,
        "<image>",
        side=256,  # 64 tokens, the least that both sides make of a picture
        byte_level=True,
        packages=("torchvision",),
        other_tokens=True,
        remarks="its file asks for a token at the beginning, which the random tokenizer does not have",
    ),
)
