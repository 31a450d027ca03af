"""LightOn's OCR model: Pixtral's vision half without the rows of [IMG_BREAK], and a Qwen3."""

from __future__ import annotations

from typing import Any

from .family import SIDE, TEXT, Family, chat

_IMAGE = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"}


def _lighton_ocr(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration, LightOnOcrProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "head_dim": 64, "num_hidden_layers": 4, "model_type": "qwen3"}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 2 * SIDE, "patch_size": 14, "model_type": "pixtral", "hidden_act": "silu",
    }  # fmt: skip
    config = LightOnOcrConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"], tie_word_embeddings=False
    )
    tokenizer._set_model_specific_special_tokens(_IMAGE)
    pictures = PixtralImageProcessorPil(size={"longest_edge": 2 * SIDE}, patch_size={"height": 28, "width": 28})
    return LightOnOcrForConditionalGeneration(config), LightOnOcrProcessor(pictures, tokenizer)


FAMILIES = (
    Family(
        "lighton-ocr",
        ("<|im_start|>", "<|im_end|>", *_IMAGE.values()),
        "<|im_end|>",
        False,
        chat("<|im_start|>", "<|im_end|>", "<|im_start|><|image_pad|><|im_end|>", "assistant"),
        _lighton_ocr,
        "<|im_start|><|image_pad|><|im_end|>",  # which libmtmd puts around a picture
        side=2 * SIDE,  # libmtmd makes the longer side as long as this
        byte_level=True,
    ),
)
