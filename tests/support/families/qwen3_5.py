"""Qwen3.5 as fine-tuning saves it, without the layers of multi-token prediction that its config may claim, and as a
mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .family import BARS, TEXT, Family
from .qwen_vl import QWEN_CHAT, QWEN_CONTROLS, QWEN_IMAGE, _qwen_mtp, qwen_ids, qwen_processor

LINEAR = {
    "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"], "full_attention_interval": 4, "head_dim": 64,
    "num_hidden_layers": 4,
}  # fmt: skip
ROPE = {
    "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
    "partial_rotary_factor": 0.5,
}  # fmt: skip
_VISION = {
    "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
    "num_position_embeddings": 64,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
}  # fmt: skip


def _qwen3_5(kind: str, **more: Any) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    """Return what makes a model of the classes of transformers whose names begin with `kind`."""

    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        import transformers

        text = TEXT | LINEAR | {"vocab_size": len(tokenizer), "rope_parameters": ROPE} | more
        config = getattr(transformers, f"{kind}Config")(
            text_config=text, vision_config=_VISION, tie_word_embeddings=False, **qwen_ids(ids)
        )
        options = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        processor = qwen_processor(transformers.Qwen3VLProcessor, tokenizer, **options)
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor

    return make


def _family(name: str, make: Callable[[Any, dict[str, int]], tuple[Any, Any]], **more: Any) -> Family:
    return Family(name, QWEN_CONTROLS, "<|im_end|>", False, QWEN_CHAT, make, QWEN_IMAGE, byte_level=True, **more)


FAMILIES = (
    _family(
        "qwen3.5-fine-tuned", _qwen3_5("Qwen3_5", mtp_num_hidden_layers=1), in_suite=True, libmtmd_differs=BARS,
        remarks="its config claims an MTP layer that the weights do not hold",
    ),
    _family(
        "qwen3.5-moe", _qwen3_5("Qwen3_5Moe", mtp_num_hidden_layers=1, **_EXPERTS), more=_qwen_mtp,
        remarks="MTP layer kept in the file",
    ),
    _family("qwen3.5-moe-fine-tuned", _qwen3_5("Qwen3_5Moe", **_EXPERTS), remarks="without an MTP layer"),
)  # fmt: skip
