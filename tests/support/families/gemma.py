"""Google's Gemma models with pictures."""

from __future__ import annotations

from typing import Any

from .family import SIDE, TEXT, Family, chat


def _gemma3(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    text = TEXT | {
        "vocab_size": len(tokenizer), "head_dim": 64, "query_pre_attn_scalar": 64, "num_hidden_layers": 6,
        "sliding_window": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=16,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )
    tokenizer._set_model_specific_special_tokens(
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    )
    pictures = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_seq_length=16)
    processor = Gemma3Processor(image_processor=pictures, tokenizer=tokenizer, image_seq_length=16)
    model = Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.1)  # else all pictures are alike
    return model, processor


FAMILIES = (
    Family(
        "gemma-3",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<end_of_turn>",
        True,
        chat("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "model"),
        _gemma3,
        "<start_of_image>",
        other_tokens=True,
        whole_road=True,
        remarks="sliding window, tied embeddings; transformers sets a picture apart by blank lines, libmtmd does not",
        media="\n\n<__media__>\n\n",  # transformers sets the picture apart by blank lines, libmtmd does not
        drop=("<image_soft_token>",),
        prefix=False,
    ),
)  # fmt: skip
