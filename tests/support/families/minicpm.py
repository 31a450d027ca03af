"""OpenBMB's MiniCPM-V."""

from __future__ import annotations

from typing import Any

from luq_gguf.hf.processor import images_and_text

from .family import TEXT, Family, chat
from .qwen3_5 import LINEAR, ROPE

_SIDE = 448  # of a slice: other pictures are resized, by two libraries
_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
    "image_start_token": "<image>", "image_end_token": "</image>",
    "slice_start_token": "<slice>", "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
}  # fmt: skip


def _minicpm(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Processor
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    text = TEXT | LINEAR | {"vocab_size": len(tokenizer), "rope_parameters": ROPE, "model_type": "qwen3_5_text"}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": 980, "patch_size": 14,
    }  # fmt: skip
    config = MiniCPMV4_6Config(
        text_config=text | {"mtp_num_hidden_layers": 1},
        vision_config=vision,
        insert_layer_id=1,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    tokenizer._set_model_specific_special_tokens(_TOKENS)
    pictures = MiniCPMV4_6ImageProcessorPil(slice_mode=False, use_image_id=False)
    processor = images_and_text(MiniCPMV4_6Processor)(image_processor=pictures, tokenizer=tokenizer)
    return MiniCPMV4_6ForConditionalGeneration(config), processor


FAMILIES = (
    Family(
        "minicpm-v-4.6", ("<|im_start|>", "<|im_end|>", *_TOKENS.values()), "<|im_end|>", False,
        chat("<|im_start|>", "<|im_end|>", "<|image_pad|>", "assistant"), _minicpm, "<|image_pad|>",
        side=_SIDE, byte_level=True,
        remarks="linear attention; one slice a picture, no number before it; the converter leaves out its MTP layer",
    ),
)  # fmt: skip
