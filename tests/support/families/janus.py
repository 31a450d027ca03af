"""DeepSeek's Janus-Pro, of which llama.cpp reads pictures and makes none."""

from __future__ import annotations

from typing import Any

from .family import SIDE, TEXT, Family

_CHAT = (
    "{% for m in messages %}<|User|>: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<image_placeholder>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n\n{% endfor %}<|Assistant|>:"
)


def _janus(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
    vision = {
        "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2.0, "image_size": SIDE,
        "patch_size": 14, "projection_dim": 256, "num_image_tokens": 64, "depth": 2,
    }  # fmt: skip
    painting = {
        "embed_dim": 8, "num_embeddings": 64, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_res_blocks": 1, "num_patches": 8, "projection_dim": 256, "image_token_embed_dim": 256,
    }  # fmt: skip
    config = JanusConfig(
        text_config=text, vision_config=vision, vq_config=painting, image_token_id=ids["<image_placeholder>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    tokenizer._set_model_specific_special_tokens(
        {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    )
    pictures = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return JanusForConditionalGeneration(config), JanusProcessor(pictures, tokenizer, num_image_tokens=64)


FAMILIES = (
    Family(
        "janus-pro",
        ("<image_placeholder>", "<begin_of_image>", "<end_of_image>", "<|User|>", "<|Assistant|>", "<pad>"),
        "</s>",
        True,
        _CHAT,
        _janus,
        "<image_placeholder>",
        prefix=False,
        other_tokens=True,
        remarks="llama.cpp's template does not set the picture between its two tokens",
    ),
)  # fmt: skip
