"""SmolVLM2."""

from __future__ import annotations

from typing import Any

from luq_gguf.hf.processor import images_and_text

from .family import SIDE, TEXT, Family, chat


def _smolvlm(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    text = TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"}
    text |= {"architectures": ["VLlama3ForCausalLM"], "pad_token_id": tokenizer.pad_token_id}
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=ids["<image>"], tie_word_embeddings=False
    )
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = images_and_text(SmolVLMProcessor)(pictures, tokenizer, None, image_seq_len=16)
    return SmolVLMForConditionalGeneration(config), processor


FAMILIES = (
    Family(
        "smolvlm2",
        ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>",
         *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2))),
        "<end_of_utterance>",
        True,
        chat("<|im_start|>", "<end_of_utterance>", "<image>", "assistant"),
        _smolvlm,
        "<image>",
        drop=("<image>",),
        whole=("\n\n",),
        prefix=False,
        side=2 * SIDE,
        packages=("num2words",),
        whole_road=True,
        remarks="a picture as four tiles and an overview",
    ),
)  # fmt: skip
