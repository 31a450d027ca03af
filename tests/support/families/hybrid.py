"""Text models whose layers are attention, and linear attention, state spaces or convolutions."""

from __future__ import annotations

import torch

from .family import CHATML, CHATML_CONTROLS, Family, text_model

PADDED = {"vocab_size": 384}  # the converter fills the vocabulary of such models up to a multiple of 8


def _qwen_next_mtp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A head that predicts further tokens, which the converter keeps as a block behind the last layer."""
    start = "model.layers.3."
    block = {name.replace(start, "mtp.layers.0."): t for name, t in tensors.items() if name.startswith(start)}
    norms = ("mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden")
    return block | {"mtp.fc.weight": torch.zeros(256, 512)} | {f"{name}.weight": torch.zeros(256) for name in norms}


FAMILIES = (
    Family(
        "lfm2", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "Lfm2Config", "Lfm2ForCausalLM", num_hidden_layers=4, block_auto_adjust_ff_dim=False,
            layer_types=["conv", "conv", "full_attention", "conv"],
        ),
        byte_level=True,
        remarks="text only, convolutions and attention",
    ),
    Family(
        "qwen3-next", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "Qwen3NextConfig", "Qwen3NextForCausalLM", num_hidden_layers=4, head_dim=64, num_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=512, shared_expert_intermediate_size=512,
            linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
        ),
        byte_level=True,
        remarks="text only, linear attention, mixture of 8 experts, MTP head kept in the file",
        more=_qwen_next_mtp,
    ),
    Family(
        "granite-4-h", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM", num_hidden_layers=4, num_local_experts=8,
            num_experts_per_tok=2, shared_intermediate_size=512, mamba_n_heads=8, mamba_d_head=64, mamba_n_groups=1,
            mamba_d_state=64, mamba_chunk_size=64, tie_word_embeddings=True,
            layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"], **PADDED,
        ),
        byte_level=True,
        remarks="text only, Mamba-2 and attention, mixture of 8 experts",
    ),
    Family(
        "nemotron-h", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "NemotronHConfig", "NemotronHForCausalLM", head_dim=64, mamba_num_heads=8, mamba_head_dim=64, n_groups=2,
            ssm_state_size=64, chunk_size=64, num_hidden_layers=4, n_routed_experts=8, num_experts_per_tok=2,
            moe_intermediate_size=512, moe_shared_expert_intermediate_size=512,
            layers_block_type=["linear_attention", "moe", "full_attention", "moe"], **PADDED,
        ),
        byte_level=True,
        remarks="text only, Mamba-2 and attention, mixture of 8 experts",
    ),
)  # fmt: skip
