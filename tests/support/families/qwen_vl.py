"""Qwen's vision-language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luq_gguf.hf.processor import images_and_text

from .family import BARS, SIDE, TEXT, Family, change_tensors, chat

QWEN_CONTROLS = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_CHAT = chat("<|im_start|>", "<|im_end|>", QWEN_IMAGE, "assistant")


def _qwen_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, but the converter keeps them as a block behind the last layer."""
    start = "model.language_model.layers.3."
    block = {name.replace(start, "mtp.layers.0."): t for name, t in tensors.items() if name.startswith(start)}
    norms = ("mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden")
    return block | {"mtp.fc.weight": torch.zeros(256, 512)} | {f"{name}.weight": torch.ones(256) for name in norms}


def qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    """Return the config's entries for the tokens around a picture."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    known = {f"{kind}_token_id": ids[token] for kind, token in names.items()}
    return known | {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}


def qwen_processor(kind: type, tokenizer: Any, **options: Any) -> Any:
    """Return a processor of a Qwen class, whose pictures the tests choose the size of."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    tokenizer.vision_start_token, tokenizer.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": SIDE * SIDE, "longest_edge": 448 * 448}, **options)
    return images_and_text(kind)(image_processor=pictures, tokenizer=tokenizer)


def _qwen2_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "tie_word_embeddings": True}
    vision = {"depth": 3, "embed_dim": 128, "hidden_size": 256, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **qwen_ids(ids))
    return Qwen2VLForConditionalGeneration(config), qwen_processor(Qwen2VLProcessor, tokenizer)


def _qwen2_5_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "fullatt_block_indexes": [1, 3],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **qwen_ids(ids))
    return Qwen2_5_VLForConditionalGeneration(config), qwen_processor(Qwen2_5_VLProcessor, tokenizer)


def _as_modules_are_called(folder: Path) -> None:
    """The names of transformers' modules, as a training loop saves them that writes the state dict by itself."""
    heads = {"visual.": "model.visual.", "model.": "model.language_model."}

    def name(old: str) -> str:
        known = next((new + old.removeprefix(start) for start, new in heads.items() if old.startswith(start)), old)
        return old if old.startswith("model.language_model.") else known

    change_tensors(folder, lambda tensors: {name(old): tensor for old, tensor in tensors.items()})


def _qwen3_vl_moe(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, Qwen3VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text = TEXT | {
        "vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "moe_intermediate_size": 256,
        "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "norm_topk_prob": True,
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = Qwen3VLMoeConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **qwen_ids(ids))
    processor = qwen_processor(Qwen3VLProcessor, tokenizer, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Qwen3VLMoeForConditionalGeneration(config), processor


def _qwen3_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 3}
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **qwen_ids(ids))
    processor = qwen_processor(Qwen3VLProcessor, tokenizer, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Qwen3VLForConditionalGeneration(config), processor


def _qwen3_5(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor

    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }  # fmt: skip
    text = TEXT | {
        "vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 64, "num_hidden_layers": 4,
        "full_attention_interval": 4, "mtp_num_hidden_layers": 1,
        "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
        "num_position_embeddings": 64,
    }  # fmt: skip
    config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=False, **qwen_ids(ids))
    processor = qwen_processor(Qwen3VLProcessor, tokenizer, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Qwen3_5ForConditionalGeneration(config), processor


FAMILIES = (
    Family(
        "qwen2-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen2_vl, QWEN_IMAGE,
        remarks="tied embeddings",
    ),
    Family(
        "qwen3-vl", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_vl, QWEN_IMAGE,
        libmtmd_differs=BARS, whole_road=True, remarks="deepstack",
    ),
    Family(
        "qwen2.5-vl-as-modules", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen2_5_vl, QWEN_IMAGE,
        change=_as_modules_are_called,
        remarks="under the names of transformers' modules (`model.visual.`)",
    ),
    Family(
        "qwen3-vl-moe", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_vl_moe, QWEN_IMAGE,
        byte_level=True, remarks="mixture of 8 experts, as transformers 5 saves them",
    ),
    Family(
        "qwen3.5", QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, _qwen3_5, QWEN_IMAGE,
        byte_level=True, more=_qwen_mtp, libmtmd_differs=BARS, whole_road=True,
        remarks="linear attention, MTP head kept in the file",
    ),
)  # fmt: skip
