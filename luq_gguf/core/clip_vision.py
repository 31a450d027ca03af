"""LLaVA's vision half, as it is read from a checkpoint and written to an mmproj file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipVision:
    """LLaVA's vision half: a CLIP tower and a projector of two layers.

    `feature_layers` are the hidden states that the projector reads, counted as transformers does: 0 is what enters
    the first block, n_layers what leaves the last. `image_mean` and `image_std` are of pixels from 0 to 1. `stretches`
    says that the processor changes the aspect ratio of a picture that is not square, where others cut its edges off.
    """

    n_layers: int
    width: int
    ffn_width: int
    n_heads: int
    eps: float
    activation: str
    image_size: int
    patch_size: int
    text_width: int
    feature_layers: tuple[int, ...]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    stretches: bool = False
