"""Text models with multi-head latent attention, whose key-value projection the converter parts into two."""

from __future__ import annotations

from .family import CHATML, CHATML_CONTROLS, Family, text_model

_SIZES = {
    "num_key_value_heads": 4, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32,
    "v_head_dim": 64, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 512, "num_hidden_layers": 3,
}  # fmt: skip
GLM_CONTROLS = ("<|endoftext|>", "[gMASK]", "<|user|>", "<|observation|>", *CHATML_CONTROLS)


FAMILIES = (
    Family(
        "deepseek-v3", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("DeepseekV3Config", "DeepseekV3ForCausalLM", first_k_dense_replace=1, **_SIZES),
        byte_level=True, in_suite=True,
        remarks="text only, latent attention, mixture of 8 experts",
    ),
    Family(
        "glm-4.7-flash", GLM_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "Glm4MoeLiteConfig", "Glm4MoeLiteForCausalLM", mlp_layer_types=["dense", "sparse", "sparse"],
            **_SIZES | {"n_routed_experts": 4},  # with 8 the router of this one is near a tie at two positions
        ),
        byte_level=True,
        remarks="text only, latent attention, mixture of 4 experts",
    ),
)  # fmt: skip
