"""InternVL3 in the form of transformers."""

from __future__ import annotations

from typing import Any

from luq_gguf.hf.processor import images_and_text

from .family import SIDE, TEXT, Family, chat

_IMAGE = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
_TILES = "libmtmd divides it into other tiles"


def _internvl3(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "qwen2", "num_hidden_layers": 4}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": [SIDE, SIDE], "patch_size": [14, 14], "architectures": ["InternVisionModel"],
    }  # fmt: skip
    config = InternVLConfig(
        text_config=text | {"architectures": ["Qwen2ForCausalLM"]}, vision_config=vision,
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=16, tie_word_embeddings=False,
    )  # fmt: skip
    tokenizer._set_model_specific_special_tokens(_IMAGE | {"video_token": "<video>"})
    pictures = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = images_and_text(InternVLProcessor)(pictures, tokenizer, image_seq_length=16)
    return InternVLForConditionalGeneration(config), processor


FAMILIES = (
    Family(
        "internvl3",
        ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        "<|im_end|>",
        False,
        chat("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "assistant"),
        _internvl3,
        "<IMG_CONTEXT>",
        byte_level=True,
        libmtmd_differs=_TILES,
        not_fitted=_TILES,
        in_suite=True,
        remarks="one tile",
    ),
)
