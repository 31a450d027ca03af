"""Frozen values of what types are foretold to cost a model's matrices: what fisher.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luq_gguf.core.json_value import JsonValue


@dataclass(frozen=True)
class ForetoldKlds(JsonValue):
    """The mean KL divergence in nats that each matrix is foretold to cost in each type, alone, name -> type -> nats;
    and the relative errors of its output (llamacpp/gguf/quant_error.py).

    `unseen` matrices have errors alone: their gradients are not known. From `draws` directions of the logits after each
    of `n_positions` tokens of `n_samples` samples, which have pictures where `multimodal`.
    """

    klds: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, Mapping[str, float]]
    unseen: tuple[str, ...]
    n_samples: int
    n_positions: int
    multimodal: bool
    draws: int
    seed: int
