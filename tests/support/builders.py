"""Small values for tests."""

from __future__ import annotations

from luq_gguf.core.measurements import Divergence, Metrics
from luq_gguf.core.sweeps import SweepPoint
from luq_gguf.core.types import LayerEntropy, ModelTensors, TensorChoice


def entropies(*bits: float, spread: float = 0.0) -> tuple[LayerEntropy, ...]:
    return tuple(LayerEntropy(i, b, spread, 1000, {}) for i, b in enumerate(bits))


def model(
    n_layers: int = 4, high: int = 1000, low: int = 400, embedding: int = 2000, header: int = 100
) -> ModelTensors:
    """One matrix and one norm a layer, and an embedding; sizes in bytes."""
    choices = [TensorChoice("token_embd.weight", None, 4096, "Q4_K", embedding, "Q4_K", embedding)]
    for n in range(n_layers):
        choices.append(TensorChoice(f"blk.{n}.ffn_up.weight", n, 2048, "Q4_K", high, "IQ1_M", low))
        choices.append(TensorChoice(f"blk.{n}.attn_norm.weight", n, 8, "F32", 32, "F32", 32))
    return ModelTensors(tuple(choices), n_layers, "IQ1_M", "Q4_K_M", header)


def point_of(order: str, n_low: int | None, n_bytes: int, kld: float, seed: int = 0) -> SweepPoint:
    """A point of a sweep that measured divergence alone."""
    divergence = Divergence(kld, kld / 2, 2 * kld, kld, kld, kld, 10, floor=0.0, missing_beyond_kept=0.0)
    metrics = Metrics(None, None, divergence, None, None, 0.9, None, None)
    return SweepPoint(order, seed, n_low, tuple(range(n_low or 0)), n_bytes, 4.5, metrics, 4.4)
