"""Models that read text only."""

from __future__ import annotations

import torch

from .family import CHATML, CHATML_CONTROLS, Family, text_model

LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}  # fmt: skip


def _ernie_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Heads that predict further tokens: neither transformers nor the converter reads them."""
    layer = {name: t for name, t in tensors.items() if name.startswith("model.layers.0.")}
    block = {name.replace("model.layers.0.", "model.mtp_block.0."): t for name, t in layer.items()}
    return block | {"model.mtp_linear_proj.0.weight": torch.zeros(256, 512)}


FAMILIES = (
    Family(
        "llama", CHATML_CONTROLS, "<|im_end|>", True, CHATML, text_model("LlamaConfig", "LlamaForCausalLM"),
        remarks="text only",
    ),
    Family(
        "qwen2.5", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("Qwen2Config", "Qwen2ForCausalLM", tie_word_embeddings=True),
        other_tokens=True,
        remarks="text only, tied embeddings; transformers gives a Qwen2 a byte-level tokenizer, whatever is saved",
    ),
    Family(
        "qwen3", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("Qwen3Config", "Qwen3ForCausalLM", head_dim=64),
        remarks="text only",
    ),
    Family(
        "llama-3", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        text_model("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, rope_parameters=LLAMA_3_ROPE),
        in_suite=True,
        remarks="text only, scaled rotary frequencies added by the converter, tied embeddings",
    ),
    Family(
        "phi", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        text_model("Phi3Config", "Phi3ForCausalLM", sliding_window=2047),
        in_suite=True,
        remarks="text only, fused query-key-value and gate-up; within its sliding window, see below",
    ),
    Family(
        "mixtral", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        text_model("MixtralConfig", "MixtralForCausalLM", num_local_experts=8, num_experts_per_tok=2),
        in_suite=True,
        remarks="text only, mixture of 8 experts",
    ),
    Family(
        "ernie-4.5-moe", CHATML_CONTROLS, "<|im_end|>", True, CHATML,
        text_model(
            "Ernie4_5_MoeConfig", "Ernie4_5_MoeForCausalLM", moe_num_experts=8, moe_k=2, moe_num_shared_experts=1,
            moe_intermediate_size=256, moe_layer_start_index=1, num_hidden_layers=3, tie_word_embeddings=True,
        ),
        prefix=False,
        more=_ernie_mtp,
        whole_road=True,
        remarks="text only, mixture with a shared expert, MTP tensors skipped by the converter",
    ),
    Family(
        "qwen3-moe", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "Qwen3MoeConfig", "Qwen3MoeForCausalLM", head_dim=64, num_experts=8, num_experts_per_tok=2,
            moe_intermediate_size=256, norm_topk_prob=True,
        ),
        byte_level=True,
        remarks="text only, mixture of 8 experts",
    ),
)  # fmt: skip
