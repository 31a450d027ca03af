"""LLaVA-1.5, whose vision half luq-gguf writes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .family import BARS, SIDE, TEXT, Family

VICUNA = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:"
)


def _llava(layers: Any = -2) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
        vision = {
            "hidden_size": 128, "intermediate_size": 256, "projection_dim": 64, "num_hidden_layers": 3,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14, "model_type": "clip_vision_model",
        }  # fmt: skip
        config = LlavaConfig(
            text_config=text, vision_config=vision, image_token_index=ids["<image>"], image_seq_length=64,
            vision_feature_layer=layers,
        )  # fmt: skip
        pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
        processor = LlavaProcessor(
            pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token="<image>",
            num_additional_image_tokens=1,
        )  # fmt: skip
        return LlavaForConditionalGeneration(config), processor

    return make


@contextmanager
def as_libmtmd_orders_clip() -> Iterator[None]:
    """LLaVA in transformers as the pinned libmtmd computes it: the class token behind the patches instead of before
    them (tools/mtmd/models/llava.cpp; ggml-org/llama.cpp issue 25814), so that each patch has its neighbour's position,
    and the first patch is dropped in place of the class token."""
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

    def forward(self, pixel_values, **_):
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        last = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([patches, last], dim=1) + self.position_embedding(self.position_ids)

    before = CLIPVisionEmbeddings.forward
    CLIPVisionEmbeddings.forward = forward
    try:
        yield
    finally:
        CLIPVisionEmbeddings.forward = before


FAMILIES = tuple(
    Family(
        name,
        ("<image>", "<pad>"),
        "</s>",
        True,
        VICUNA,
        _llava(layers),
        "<image>",
        as_llama_cpp=as_libmtmd_orders_clip,
        libmtmd_differs=f"{BARS}, where the processor cuts edges off",
        whole_road=name == "llava-1.5",
        in_suite=True,
        remarks="libmtmd orders CLIP's tokens differently",
    )
    for name, layers in (("llava-1.5", -2), ("llava-of-two-layers", [-2, -1]))
)
