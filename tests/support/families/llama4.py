"""Meta's Llama 4, whose experts are computed by code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .family import SIDE, TEXT, Family, chat

_CONTROLS = (
    "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>",
    "<|tile_x_separator|>", "<|tile_y_separator|>",
)  # fmt: skip


def _llama4(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Llama4Config, Llama4ForConditionalGeneration, Llama4ImageProcessor, Llama4Processor

    text = TEXT | {
        "vocab_size": len(tokenizer), "head_dim": 64, "intermediate_size": 512, "intermediate_size_mlp": 768,
        "num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
        "attention_chunk_size": 2048,
    }  # fmt: skip
    text |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    vision = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14, "vision_output_dim": 256, "projector_input_dim": 256,
        "projector_output_dim": 256,
    }  # fmt: skip
    config = Llama4Config(
        text_config=text,
        vision_config=vision,
        boi_token_index=ids["<|image_start|>"],
        eoi_token_index=ids["<|image_end|>"],
        image_token_index=ids["<|patch|>"],
    )
    pictures = Llama4ImageProcessor(size={"height": SIDE, "width": SIDE}, max_patches=1)
    return Llama4ForConditionalGeneration(config), Llama4Processor(image_processor=pictures, tokenizer=tokenizer)


@contextmanager
def _as_libmtmd_orders_pictures() -> Iterator[None]:
    """Llama 4 in transformers as the pinned libmtmd computes it: what four patches become is in the order of columns
    (tools/mtmd/models/llama4.cpp)."""
    from transformers.models.llama4 import modeling_llama4

    def pixel_shuffle(patches, ratio):
        n, count, width = patches.shape
        side = round(count**0.5 / 2)
        squares = patches.view(n, side, 2, side, 2, width)
        return squares.permute(0, 3, 1, 2, 4, 5).reshape(n, side * side, 4 * width)

    before = modeling_llama4.pixel_shuffle
    modeling_llama4.pixel_shuffle = pixel_shuffle
    try:
        yield
    finally:
        modeling_llama4.pixel_shuffle = before


FAMILIES = (
    Family(
        "llama-4",
        _CONTROLS,
        "<|eot|>",
        False,
        chat("<|header_start|>", "<|eot|>", "<|image|>", "assistant"),
        _llama4,
        "<|image|>",
        byte_level=True,
        packages=("torchvision",),
        other_tokens=True,
        as_llama_cpp=_as_libmtmd_orders_pictures,
        remarks="libmtmd orders a picture's tokens by columns and leaves a token out; MoE in every second layer",
    ),
)
