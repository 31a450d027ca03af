"""Positions of one picture and of the text around it, and the rotary embeddings that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """Cosines and sines of every position, each [T, width of a head]."""

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> Rotary:
        return Rotary(self.cos.to(device), self.sin.to(device))

    def apply(self, x: Tensor) -> Tensor:
        """Rotate queries or keys, [.., T, width of a head]."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * self.sin.to(x.dtype)


def of_text(prefix: Sequence[int], image_token: int, behind: int, config: Mapping[str, Any]) -> Rotary:
    """Return the embeddings of a prefix with one square picture and of so many tokens behind it, by a checkpoint's
    text_config. With an mrope_section (Qwen2.5-VL) the picture's tokens have a time, a row and a column."""
    rope = config["rope_parameters"]
    head = config["hidden_size"] // config["num_attention_heads"]
    section = rope.get("mrope_section")
    n = len(prefix) + behind
    places = _on_three_axes(prefix, image_token, n) if section else torch.arange(n).expand(3, n)
    angles = _angles(places, head, rope["rope_theta"])  # [3, T, head / 2]
    parts = angles.split(section or [head // 2], dim=-1)
    mixed = torch.cat([part[axis % 3] for axis, part in enumerate(parts)], dim=-1)
    return _rotary(mixed)


def _on_three_axes(prefix: Sequence[int], image_token: int, n: int) -> Tensor:
    """[3, n]: text counts on all axes alike; the picture is one moment, and text goes on behind its longest side."""
    first, n_image = prefix.index(image_token), sum(token == image_token for token in prefix)
    side = math.isqrt(n_image)
    cell = torch.arange(n_image)
    picture = first + torch.stack([torch.zeros_like(cell), cell // side, cell % side])
    behind = first + side + torch.arange(n - first - n_image)
    return torch.cat([torch.arange(first).expand(3, -1), picture, behind.expand(3, -1)], dim=1)


def of_patches(side: int, merged: int, config: Mapping[str, Any]) -> Rotary:
    """Return those of Qwen2.5-VL's vision tower for side x side patches, in blocks of merged x merged, by a
    checkpoint's vision_config: half of a head for the row and half for the column."""
    grid = torch.arange(side * side).reshape(side // merged, merged, side // merged, merged).transpose(1, 2).flatten()
    head = config["hidden_size"] // config["num_heads"]
    angles = _angles(torch.stack([grid // side, grid % side]), head // 2, config["rope_parameters"]["rope_theta"])
    return _rotary(torch.cat([angles[0], angles[1]], dim=-1))


def _angles(positions: Tensor, width: int, theta: float) -> Tensor:
    """[.., width / 2] of positions [..]."""
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float) / width)
    return positions[..., None].float() * frequencies


def _rotary(angles: Tensor) -> Rotary:
    both = torch.cat([angles, angles], dim=-1)
    return Rotary(both.cos(), both.sin())
