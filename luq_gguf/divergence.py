"""How far a model's expectations are from a reference's: per position, over the whole vocabulary."""

from __future__ import annotations

import numpy as np


def kl_divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(reference || other) in nats, float64 [n], of log-probabilities [n, n_vocab]; never below zero.

    Raises ValueError where the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"{reference.shape} and {other.shape} are not of the same positions and vocabulary")
    p, q = reference.astype(np.float64), other.astype(np.float64)
    return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0))


def same_top(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether both expect the same token most, bool [n], of log-probabilities [n, n_vocab]."""
    return np.asarray(reference.argmax(axis=1) == other.argmax(axis=1))
