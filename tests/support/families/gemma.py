"""Google's Gemma models with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from luq_gguf.hf.processor import images_and_text

from .family import BARS, LINES, SIDE, TEXT, Family, chat

_GEMMA_4_SIDE = 11 * 48  # as many tokens as the processor allows, so that it does not scale the picture
_GEMMA_4 = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip


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


def _gemma_tokenizer(controls: list[str], end: str) -> Any:
    """A BPE of characters and bytes; words are learnt with the space before them, and newlines alone."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import AddedToken, GemmaTokenizer

    learnt = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learnt.normalizer = normalizers.Replace(" ", "\u2581")
    learnt.pre_tokenizer = pre_tokenizers.Split("\u2581", behavior="merged_with_next")
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=first, initial_alphabet=["\n"], show_progress=False)
    learnt.train_from_iterator(LINES * 20, trainer)
    model = json.loads(learnt.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokenizer = GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    return tokenizer


def _gemma4(**more: Any) -> Callable[[Any, dict[str, int]], tuple[Any, Any]]:
    def make(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
        from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4Processor
        from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

        tokenizer._set_model_specific_special_tokens(_GEMMA_4)
        pictures, sounds = Gemma4ImageProcessorPil(max_soft_tokens=140), Gemma4AudioFeatureExtractor()
        processor = images_and_text(Gemma4Processor)(sounds, pictures, tokenizer, None)  # adds a token for videos
        text = TEXT | {
            "vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer), "head_dim": 64,
            "global_head_dim": 128, "num_hidden_layers": 6, "sliding_window": 128, "hidden_size_per_layer_input": 0,
            "use_bidirectional_attention": "vision", "final_logit_softcapping": 30.0,
        }  # fmt: skip
        vision = {
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 64, "position_embedding_size": 64,
        }  # fmt: skip
        known = {f"{name.removesuffix('_token')}_token_id": ids[token] for name, token in _GEMMA_4.items()}
        known["eoa_token_index"] = known.pop("eoa_token_id")
        config = Gemma4Config(
            text_config=text | more, vision_config=vision, audio_config=None,
            video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"), **known,
        )  # fmt: skip
        model = Gemma4ForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if name.endswith("position_embedding_table"):  # ones otherwise: then all patches are nearly the same
                torch.nn.init.normal_(parameter, std=0.3)
            if name.endswith(("q_norm.weight", "k_norm.weight")):  # else attention is as sharp as 16 bits can tell
                torch.nn.init.constant_(parameter, 0.3)
        return model, processor

    return make


_EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 256}
FAMILIES = (
    *(
        Family(
            name, ("<|turn>", "<turn|>", *_GEMMA_4.values()), "<eos>", True,
            chat("<|turn>", "<turn|>", "<|image|>", "model"), _gemma4(**more), "<|image|>",
            side=_GEMMA_4_SIDE, tokenizer=_gemma_tokenizer, remarks=remarks, in_suite=name == "gemma-4",
            largest_kld=1e-5,  # with quick_gelu in its vision half it is 3e-4
            libmtmd_differs=f"{BARS}, and makes fewer tokens of small pictures",
        )
        for name, more, remarks in (
            ("gemma-4", {}, "sliding window, image tokens see each other; see below"),
            ("gemma-4-moe", _EXPERTS, "the same with a mixture of 4 experts"),
        )
    ),
    Family(
        "gemma-3",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<end_of_turn>",
        True,
        chat("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "model"),
        _gemma3,
        "<start_of_image>",
        other_tokens=True,
        libmtmd_differs=BARS,
        whole_road=True,
        remarks="sliding window, tied embeddings; transformers sets a picture apart by blank lines, libmtmd does not",
        prefix=False,
    ),
)  # fmt: skip
