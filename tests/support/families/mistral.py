"""Mistral's models with Pixtral's vision half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .family import TEXT, Family, chat

MISTRAL_CONTROLS = ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
_MERGE = 2
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


def _pixtral(text: dict[str, Any], merge: int) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    """What makes a model with Pixtral's tower: Mistral's own, or as a LLaVA where no patches are merged."""

    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        import transformers
        from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

        vision = {
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 448, "patch_size": 14, "model_type": "pixtral",
        }  # fmt: skip
        settings = {
            "text_config": TEXT | {"vocab_size": len(tokenizer), "head_dim": 64, "num_hidden_layers": 4} | text,
            "vision_config": vision, "image_token_index": ids["[IMG]"], "tie_word_embeddings": False,
            "vision_feature_layer": -1,
        }  # fmt: skip
        if merge == 1:
            config = transformers.LlavaConfig(**settings, vision_feature_select_strategy="full")
            model = transformers.LlavaForConditionalGeneration(config)
        else:
            config = transformers.Mistral3Config(**settings, spatial_merge_size=merge)
            model = transformers.Mistral3ForConditionalGeneration(config)
        sizes = {"size": {"longest_edge": 448}, "patch_size": {"height": 14, "width": 14}}
        pictures = PixtralImageProcessorPil(**sizes)
        processor = transformers.PixtralProcessor(pictures, tokenizer, patch_size=14, spatial_merge_size=merge)
        return model, processor

    return make


def _family(name: str, text: dict[str, Any], merge: int = _MERGE) -> Family:
    return Family(
        name,
        MISTRAL_CONTROLS,
        "</s>",
        True,
        chat("[INST]", "[/INST]", "[IMG]", "assistant"),
        _pixtral(text, merge),
        "[IMG]",
        packages=("torchvision",),
        remarks="the row of [IMG_BREAK] in the embeddings goes into the mmproj too",
    )


FAMILIES = (
    _family("pixtral", {"model_type": "mistral"}, merge=1),
    _family("mistral-small-3.1", {"model_type": "mistral"}),
    _family("ministral-3", {"model_type": "ministral3", "rope_parameters": YARN}),
)
