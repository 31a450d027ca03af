"""Meta's Llama 4, whose experts are computed by code of its own."""

from __future__ import annotations

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
    ),
)
