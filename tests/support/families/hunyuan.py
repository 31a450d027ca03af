"""Tencent's HunyuanOCR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .family import SIDE, TEXT, Family, chat, with_pixel_limits

_START, _END, _PAD, _NEWLINE = (f"<\uff5chy_place\u2581holder\u2581no\u2581{n}\uff5c>" for n in (100, 101, 102, 103))
_IMAGE = f"{_START}{_PAD}{_END}"


def _hunyuan_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import HunYuanVLConfig, HunYuanVLForConditionalGeneration, HunYuanVLProcessor
    from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 1000.0, "mrope_section": [8] * 4}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 4}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
        "patch_size": 14, "max_image_size": SIDE,
    }  # fmt: skip
    config = HunYuanVLConfig(
        text_config=text, vision_config=vision, image_token_id=ids[_PAD], im_start_id=ids[_START], im_end_id=ids[_END],
        im_newline_id=ids[_NEWLINE],
    )  # fmt: skip
    tokenizer._set_model_specific_special_tokens(
        {"image_token": _PAD, "image_start_token": _START, "image_end_token": _END}
    )
    pictures = HunYuanVLImageProcessorPil(patch_size=14, min_pixels=SIDE * SIDE, max_pixels=448 * 448)
    return HunYuanVLForConditionalGeneration(config), HunYuanVLProcessor(image_processor=pictures, tokenizer=tokenizer)


@contextmanager
def as_whole_rotations() -> Iterator[None]:
    """HunYuanVL in transformers with rotary sections as llama.cpp and vLLM (rotary_embedding/xdrope.py) have them: both
    columns of a pair belong to one axis. transformers 5.23 gives them different axes (modeling_hunyuan_vl.py,
    `recomposition_frequencies`: sections are doubled, not repeated)."""
    from transformers.models.hunyuan_vl.modeling_hunyuan_vl import HunYuanVLRotaryEmbedding

    def recomposed(self, freq):
        half = torch.cat([part[i] for i, part in enumerate(freq.split(self.mrope_section, dim=-1))], dim=-1)
        return torch.cat((half, half), dim=-1)

    before = HunYuanVLRotaryEmbedding.recomposition_frequencies
    HunYuanVLRotaryEmbedding.recomposition_frequencies = recomposed
    try:
        yield
    finally:
        HunYuanVLRotaryEmbedding.recomposition_frequencies = before


FAMILIES = (
    Family(
        "hunyuan-ocr",
        ("<|im_start|>", "<|im_end|>", _START, _END, _PAD, _NEWLINE),
        "<|im_end|>",
        False,
        chat("<|im_start|>", "<|im_end|>", _IMAGE, "assistant"),
        _hunyuan_vl,
        _IMAGE,
        drop=(_PAD,),
        byte_level=True,
        change=with_pixel_limits(SIDE * SIDE, 448 * 448),
        as_llama_cpp=as_whole_rotations,
        remarks="llama.cpp rotates by other sections",
    ),
)
