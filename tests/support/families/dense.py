"""Text models of this year whose layers have attention."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .deepseek import GLM_CONTROLS
from .family import CHATML, CHATML_CONTROLS, Family, change_tensors, text_model

_SLIDING = {"sliding_window": 32, "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "num_hidden_layers": 4}

_BLOCK = 128  # rows and columns of a weight that share a scale


def _in_fp8(folder: Path) -> None:
    """Store the linear layers in FP8, as Qwen publishes its models for GPUs."""

    def quantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made = {}
        for name, tensor in tensors.items():
            if not name.endswith("_proj.weight"):
                made[name] = tensor
                continue
            blocks = tensor.float().unfold(0, _BLOCK, _BLOCK).unfold(1, _BLOCK, _BLOCK)  # [n, m, _BLOCK, _BLOCK]
            scales = blocks.abs().amax((-2, -1)) / torch.finfo(torch.float8_e4m3fn).max
            rounded = (blocks / scales[..., None, None]).movedim(1, 2).reshape(tensor.shape)
            made[name] = rounded.to(torch.float8_e4m3fn)
            made[f"{name}_scale_inv"] = scales
        return made

    change_tensors(folder, quantized)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [_BLOCK, _BLOCK],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))


FAMILIES = (
    Family(
        "glm-4", GLM_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("Glm4Config", "Glm4ForCausalLM", head_dim=64),
        byte_level=True,
        remarks="text only",
    ),
    Family(
        "smollm3", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("SmolLM3Config", "SmolLM3ForCausalLM", num_hidden_layers=4),
        byte_level=True,
        remarks="text only, a layer without positions",
    ),
    Family(
        "olmo-3", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("Olmo3Config", "Olmo3ForCausalLM", **_SLIDING | {"initializer_range": 0.1}),
        byte_level=True,
        remarks="text only, sliding window",
    ),
    Family(
        "gpt-oss", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model(
            "GptOssConfig", "GptOssForCausalLM", head_dim=64, num_local_experts=8, num_experts_per_tok=2,
            **_SLIDING | {"layer_types": ["sliding_attention", "full_attention"] * 2},
        ),
        byte_level=True,
        remarks="text only, attention sinks, mixture of 8 experts in bfloat16; YaRN differs, see below",
    ),
    Family(
        "qwen3-fp8", CHATML_CONTROLS, "<|im_end|>", False, CHATML,
        text_model("Qwen3Config", "Qwen3ForCausalLM", head_dim=64),
        byte_level=True,
        remarks="text only, weights in FP8",
        change=_in_fp8,
    ),
)  # fmt: skip
