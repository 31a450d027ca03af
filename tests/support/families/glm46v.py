"""GLM-4.6V-Flash under its own name in transformers, which has GLM-4V's halves."""

from __future__ import annotations

from typing import Any

from luq_gguf.hf.processor import images_and_text

from .family import SIDE, TEXT, Family, chat

_CONTROLS = ("<|user|>", "<|endoftext|>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|video|>")
_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"


def _glm46v(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Glm46VConfig, Glm46VForConditionalGeneration, Glm46VProcessor
    from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12], "partial_rotary_factor": 1.0,
    }  # fmt: skip
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "num_hidden_layers": 4}
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = Glm46VConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"], image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
    )  # fmt: skip
    pictures = Glm46VImageProcessorPil(size={"shortest_edge": SIDE * SIDE, "longest_edge": 448 * 448})
    processor = images_and_text(Glm46VProcessor)(image_processor=pictures, tokenizer=tokenizer)
    return Glm46VForConditionalGeneration(config), processor


FAMILIES = (
    Family(
        "glm-4.6v-flash", _CONTROLS, "<|endoftext|>", False, chat("<|user|>", "<|endoftext|>", _IMAGE, "assistant"),
        _glm46v, _IMAGE, byte_level=True,
    ),
)  # fmt: skip
