"""The two vision towers with what leads into the decoder, over the names that a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from instrument.rotary import Rotary

Weights = Mapping[str, Tensor]
PATCH = 14  # pixels of a patch's side, in both towers


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def rms_norm(weights: Weights, name: str, x: Tensor, epsilon: float) -> Tensor:
    """RMS norm in float32 whatever the type of x is, as transformers computes it."""
    return F.rms_norm(x.float(), (x.shape[-1],), weights[f"{name}.weight"].float(), epsilon).to(x.dtype)


def _layer_norm(weights: Weights, name: str, x: Tensor, epsilon: float) -> Tensor:
    weight, bias = weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()
    return F.layer_norm(x.float(), (x.shape[-1],), weight, bias, epsilon).to(x.dtype)


@dataclass(frozen=True)
class QwenTower:
    """Qwen2.5-VL's tower for pictures of one window, in which attention within windows is attention to everything."""

    config: Mapping[str, Any]
    rotary: Rotary

    def __call__(self, weights: Weights, pixels: Tensor) -> Tensor:
        """Return the picture's tokens [B, (side / 28)², hidden size] of normalised pixels [B, 3, side, side]."""
        patch = weights["visual.patch_embed.proj.weight"]
        x = F.linear(self._patches(pixels), patch.flatten(1))
        for i in range(self.config["depth"]):
            x = self._block(weights, f"visual.blocks.{i}.", x)
        x = rms_norm(weights, "visual.merger.ln_q", x, 1e-6)
        merged = self.config["spatial_merge_size"] ** 2
        x = x.reshape(x.shape[0], x.shape[1] // merged, -1)
        return linear(weights, "visual.merger.mlp.2", F.gelu(linear(weights, "visual.merger.mlp.0", x)))

    def _patches(self, pixels: Tensor) -> Tensor:
        """[B, patches, 3 x frames x 14 x 14]: a picture is shown as equal frames, and patches that will be merged lie
        together."""
        batch, side, merged = pixels.shape[0], pixels.shape[-1] // PATCH, self.config["spatial_merge_size"]
        frames = self.config["temporal_patch_size"]
        x = pixels[:, :, None].expand(-1, -1, frames, -1, -1)
        x = x.reshape(batch, 3, frames, side // merged, merged, PATCH, side // merged, merged, PATCH)
        return x.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(batch, side * side, -1)

    def _block(self, weights: Weights, block: str, x: Tensor) -> Tensor:
        heads = self.config["num_heads"]
        y = linear(weights, f"{block}attn.qkv", rms_norm(weights, f"{block}norm1", x, 1e-6))
        query, key, value = y.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.rotary.apply(query), self.rotary.apply(key), value)
        x = x + linear(weights, f"{block}attn.proj", y.transpose(1, 2).reshape(x.shape))
        y = rms_norm(weights, f"{block}norm2", x, 1e-6)
        y = F.silu(linear(weights, f"{block}mlp.gate_proj", y)) * linear(weights, f"{block}mlp.up_proj", y)
        return x + linear(weights, f"{block}mlp.down_proj", y)


@dataclass(frozen=True)
class ClipTower:
    """LLaVA-1.5's CLIP tower up to its last block but one, and the projector."""

    config: Mapping[str, Any]

    def __call__(self, weights: Weights, pixels: Tensor) -> Tensor:
        """Return the picture's tokens [B, (side / 14)², hidden size] of normalised pixels [B, 3, side, side]."""
        tower, epsilon = "vision_tower.", self.config["layer_norm_eps"]
        patch = weights[f"{tower}embeddings.patch_embedding.weight"]
        x = F.conv2d(pixels, patch, stride=PATCH).flatten(2).transpose(1, 2)
        first = weights[f"{tower}embeddings.class_embedding"].to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], 1) + weights[f"{tower}embeddings.position_embedding.weight"].to(x.dtype)
        x = _layer_norm(weights, f"{tower}pre_layrnorm", x, epsilon)
        for i in range(self.config["num_hidden_layers"] - 1):  # LLaVA does not read the last block
            x = self._block(weights, f"{tower}encoder.layers.{i}.", x)
        x = F.gelu(linear(weights, "multi_modal_projector.linear_1", x[:, 1:]))
        return linear(weights, "multi_modal_projector.linear_2", x)

    def _block(self, weights: Weights, block: str, x: Tensor) -> Tensor:
        heads, epsilon = self.config["num_attention_heads"], self.config["layer_norm_eps"]
        y = _layer_norm(weights, f"{block}layer_norm1", x, epsilon)
        query, key, value = (
            linear(weights, f"{block}self_attn.{part}_proj", y).reshape(*x.shape[:2], heads, -1).transpose(1, 2)
            for part in "qkv"
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        x = x + linear(weights, f"{block}self_attn.out_proj", y)
        y = linear(weights, f"{block}mlp.fc1", _layer_norm(weights, f"{block}layer_norm2", x, epsilon))
        return x + linear(weights, f"{block}mlp.fc2", y * torch.sigmoid(1.702 * y))
