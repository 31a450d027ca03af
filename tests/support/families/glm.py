"""Zhipu's GLM models with pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luq_gguf.hf.processor import images_and_text

from .family import SIDE, TEXT, Family

_CONTROLS = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
)  # fmt: skip
_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
_CHAT = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    + _IMAGE
    + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<|assistant|>\n"
)
_VISION = {
    "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256,
    "image_size": SIDE, "patch_size": 14,
}  # fmt: skip


def _glm(kind: str, rope: dict[str, Any], **more: Any) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    """Return what makes a model of the classes of transformers whose names begin with `kind`."""

    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        import transformers
        from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

        rope_parameters = {"rope_type": "default", "rope_theta": 10000.0} | rope
        text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope_parameters, "pad_token_id": 0} | more
        names = {"image": "<|image|>", "video": "<|video|>"}
        names |= {f"{kind}_start": f"<|begin_of_{kind}|>" for kind in ("image", "video")}
        names |= {f"{kind}_end": f"<|end_of_{kind}|>" for kind in ("image", "video")}
        known = {f"{place}_token_id": ids[token] for place, token in names.items()}
        config = getattr(transformers, f"{kind}Config")(
            text_config=text, vision_config=_VISION, tie_word_embeddings=False, **known
        )
        size = {"shortest_edge": SIDE * SIDE, "longest_edge": 448 * 448 * 2}
        pictures = Glm4vImageProcessorPil(size=size)
        processor = images_and_text(transformers.Glm4vProcessor)(image_processor=pictures, tokenizer=tokenizer)
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor

    return make


def _family(name: str, make: Callable[[Any, dict[str, int]], tuple[Any, Any]], **more: Any) -> Family:
    return Family(name, _CONTROLS, "<|endoftext|>", False, _CHAT, make, _IMAGE, byte_level=True, **more)


_EXPERTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 256,
    "first_k_dense_replace": 1, "num_hidden_layers": 3, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_HALF = {"mrope_section": [4, 6, 6], "partial_rotary_factor": 0.5}
_WHOLE = {"mrope_section": [8, 12, 12], "partial_rotary_factor": 1.0}
FAMILIES = (
    _family("glm-4v", _glm("Glm4v", _HALF)),
    _family(
        "glm-4.5v",
        _glm("Glm4vMoe", _HALF, num_nextn_predict_layers=1, **_EXPERTS),
        remarks="mixture with a shared expert; its config claims an MTP layer that the weights do not hold",
    ),
    _family(
        "glm-ocr", _glm("GlmOcr", _WHOLE, num_nextn_predict_layers=1),
        remarks="its config claims an MTP layer that the weights do not hold",
    ),
)  # fmt: skip
