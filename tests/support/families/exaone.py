"""LG's EXAONE 4.5."""

from __future__ import annotations

from typing import Any

from .family import SIDE, TEXT, Family, chat, with_pixel_limits
from .qwen_vl import qwen_processor

_CONTROLS = ("<|im_start|>", "<|im_end|>", "<vision>", "</vision>", "<|image_pad|>", "<|video_pad|>")
_IMAGE = "<vision><|image_pad|></vision>"


def _exaone4_5(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Exaone4_5_Config, Exaone4_5_ForConditionalGeneration, Exaone4_5_Processor

    # 64 layers as the published one has: with any other number the pinned llama.cpp lets none slide, and all rotate
    text = TEXT | {
        "vocab_size": len(tokenizer), "model_type": "exaone4", "num_hidden_layers": 64, "intermediate_size": 256,
        "sliding_window": 32, "sliding_window_pattern": 4, "head_dim": 64,
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "num_key_value_heads": 1,
        "out_hidden_size": 256, "window_size": 112, "fullatt_block_indexes": [1, 3], "model_type": "exaone4_5_vision",
    }  # fmt: skip
    config = Exaone4_5_Config(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"]
    )
    return Exaone4_5_ForConditionalGeneration(config), qwen_processor(Exaone4_5_Processor, tokenizer)


FAMILIES = (
    Family(
        "exaone-4.5", _CONTROLS, "<|im_end|>", False, chat("<|im_start|>", "<|im_end|>", _IMAGE, "assistant"),
        _exaone4_5, _IMAGE, drop=("<|image_pad|>",), byte_level=True,
        change=with_pixel_limits(SIDE * SIDE, 448 * 448),
        remarks="64 layers with a sliding window, as published; see below for other numbers of layers",
    ),
)  # fmt: skip
