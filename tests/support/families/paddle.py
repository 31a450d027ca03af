"""PaddleOCR-VL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .family import SIDE, TEXT, Family, chat

_IMAGE = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
_PIXELS = {"min_pixels": SIDE * SIDE, "max_pixels": 448 * 448}


def _paddle(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration, PaddleOCRVLProcessor
    from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 3}
    text |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14, "architectures": ["PaddleOCRVisionModel"],
    }  # fmt: skip
    config = PaddleOCRVLConfig(
        text_config=text | {"tie_word_embeddings": False},
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
        vision_start_token_id=ids["<|IMAGE_START|>"],
        vision_end_token_id=ids["<|IMAGE_END|>"],
    )
    tokenizer._set_model_specific_special_tokens({"image_token": "<|IMAGE_PLACEHOLDER|>"})
    processor = PaddleOCRVLProcessor(PaddleOCRVLImageProcessorPil(**_PIXELS), tokenizer)
    return PaddleOCRVLForConditionalGeneration(config), processor


def _with_pixels(folder: Path) -> None:
    """The converter reads them in this file alone, where the Hub's checkpoints have them."""
    pictures = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | _PIXELS))


FAMILIES = (
    Family(
        "paddleocr-vl",
        ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>"),
        "<|end_of_sentence|>",
        True,
        chat("<|begin_of_sentence|>", "<|end_of_sentence|>", _IMAGE, "Assistant"),
        _paddle,
        _IMAGE,
        prefix=False,
        change=_with_pixels,
    ),
)  # fmt: skip
