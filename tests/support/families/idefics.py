"""Idefics3."""

from __future__ import annotations

from typing import Any

from .family import SIDE, TEXT, Family, chat


def _idefics3(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    text |= {"pad_token_id": tokenizer.pad_token_id}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, image_token_id=ids["<image>"])
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(pictures, tokenizer, image_seq_len=16)


FAMILIES = (
    Family(
        "idefics3",
        ("<|begin_of_text|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>",
         *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))),
        "<end_of_utterance>",
        True,
        chat("<|begin_of_text|>", "<end_of_utterance>", "<image>", "Assistant"),
        _idefics3,
        "<image>",
        whole=("\n\n",),
        prefix=False,
        side=2 * SIDE,
        remarks="an image as four tiles and an overview",
    ),
)  # fmt: skip
