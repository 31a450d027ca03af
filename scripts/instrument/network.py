"""The forward pass of both architectures for training: a dict of tensors under a checkpoint's names, no module tree.

It is transformers' own to within rounding (tests/scripts/test_network.py), several times as fast on many small
pictures, and knows one thing more: questions that follow the same picture in one sequence do not see each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from instrument import rotary
from instrument.prompts import LENGTH, Prompts
from instrument.rotary import Rotary
from instrument.towers import PATCH, ClipTower, QwenTower, Weights, linear, rms_norm
from luq_gguf.core.errors import LuqError
from luq_gguf.workflows.easy_vqa import SIDE

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as in both processors


class Packing(NamedTuple):
    """One sequence of the prefix with its picture and n questions: who sees whom, bool [T, T], and positions, with
    which every question begins where it would alone."""

    n: int
    mask: Tensor
    rotary: Rotary


@dataclass(frozen=True)
class Network:
    """A checkpoint's architecture on a device, without its weights."""

    config: dict[str, Any]
    tower: QwenTower | ClipTower
    prefix: Tensor  # ids, with the picture's tokens from image[0] to image[1]
    image: tuple[int, int]
    rotary: Rotary  # of the prefix and of one question
    decoder: str  # what the names of its tensors begin with
    head: str
    device: torch.device

    @classmethod
    def of(cls, folder: Path, prompts: Prompts, device: torch.device) -> Network:
        """Read a checkpoint's config.json. Raises LuqError where it is of another architecture."""
        config = json.loads((folder / "config.json").read_text())
        kind = config.get("model_type")
        if kind == "qwen2_5_vl":
            vision = config["vision_config"]
            patches = rotary.of_patches(SIDE // PATCH, vision["spatial_merge_size"], vision)
            tower: QwenTower | ClipTower = QwenTower(vision, patches.to(device))
            decoder, head = "model.", "lm_head"
        elif kind == "llava":
            tower, decoder, head = ClipTower(config["vision_config"]), "language_model.model.", "language_model.lm_head"
        else:
            raise LuqError(
                f"{folder} is a model of the type {kind}, which is not trained here.",
                "Give a Qwen2.5-VL or LLaVA-1.5 made by the command prepare.",
            )
        positions = rotary.of_text(prompts.prefix, prompts.image_token, LENGTH, config["text_config"])
        first = prompts.prefix.index(prompts.image_token)
        image = (first, first + prompts.prefix.count(prompts.image_token))
        prefix = torch.tensor(prompts.prefix, device=device)
        return cls(config, tower, prefix, image, positions.to(device), decoder, head, device)

    @property
    def n_layers(self) -> int:
        return int(self.config["text_config"]["num_hidden_layers"])

    @property
    def n_image(self) -> int:
        return self.image[1] - self.image[0]

    def pixels(self, pictures: Tensor) -> Tensor:
        """Normalise uint8 pictures [B, side, side, 3] as the checkpoint's processor does: [B, 3, side, side]."""
        mean, std = (torch.tensor(value, device=self.device) for value in (_MEAN, _STD))
        return ((pictures.to(self.device, non_blocking=True).float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def packing(self, n: int) -> Packing:
        """Lay out n questions of LENGTH tokens behind one prefix."""
        before = len(self.prefix)
        block = torch.cat([torch.full((before,), -1), torch.arange(n).repeat_interleave(LENGTH)])
        causal = torch.ones(len(block), len(block), dtype=torch.bool).tril()
        mask = causal & ((block == -1) | (block == block[:, None]))
        cos, sin = (torch.cat([part[:before], *[part[before:]] * n]) for part in self.rotary)
        return Packing(n, mask.to(self.device), Rotary(cos, sin))

    def logits(
        self, weights: Weights, features: Tensor, ids: Tensor, packing: Packing, kept: Tensor | None = None
    ) -> Tensor:
        """Return what is foretold of every token of every question, [B, n, LENGTH, vocabulary].

        `features` are the tower's [B, n_image, hidden size], `ids` the questions' [B, n, LENGTH]; `kept` scales what
        each decoder layer adds, [layers]: 0 leaves it out.
        """
        first, behind = self.image
        embedding = weights[f"{self.decoder}embed_tokens.weight"]
        prefix = F.embedding(self.prefix, embedding)[None].expand(len(ids), -1, -1)
        parts = [prefix[:, :first], features, prefix[:, behind:], F.embedding(ids.flatten(1), embedding)]
        x = torch.cat([part.to(features.dtype) for part in parts], 1)
        for i in range(self.n_layers):
            x = self._layer(weights, i, x, packing, 1.0 if kept is None else kept[i])
        epsilon = self.config["text_config"]["rms_norm_eps"]
        x = rms_norm(weights, f"{self.decoder}norm", x, epsilon)
        before = len(self.prefix)
        questions = x[:, before:].unflatten(1, (packing.n, LENGTH))
        last = x[:, None, before - 1 : before].expand(-1, packing.n, -1, -1)
        return linear(weights, self.head, torch.cat([last, questions[:, :, :-1]], 2))

    def _layer(self, weights: Weights, i: int, x: Tensor, packing: Packing, scale: Tensor | float) -> Tensor:
        text, layer = self.config["text_config"], f"{self.decoder}layers.{i}."
        heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
        y = rms_norm(weights, f"{layer}input_layernorm", x, text["rms_norm_eps"])
        query, key, value = (
            linear(weights, f"{layer}self_attn.{part}_proj", y).unflatten(-1, (n, -1)).transpose(1, 2)
            for part, n in (("q", heads), ("k", groups), ("v", groups))
        )
        key = packing.rotary.apply(key).repeat_interleave(heads // groups, 1)
        value = value.repeat_interleave(heads // groups, 1)
        y = F.scaled_dot_product_attention(packing.rotary.apply(query), key, value, attn_mask=packing.mask)
        x = x + scale * linear(weights, f"{layer}self_attn.o_proj", y.transpose(1, 2).flatten(2))
        y = rms_norm(weights, f"{layer}post_attention_layernorm", x, text["rms_norm_eps"])
        y = F.silu(linear(weights, f"{layer}mlp.gate_proj", y)) * linear(weights, f"{layer}mlp.up_proj", y)
        return x + scale * linear(weights, f"{layer}mlp.down_proj", y)
