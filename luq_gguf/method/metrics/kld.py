"""How far a model's log-probabilities are from a reference's: per position, over the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TopLogprobs:
    """Log-probabilities at n positions: of the k most probable tokens, and of all others together.

    tokens: int32 [n, k]; log_probabilities: float32 [n, k], descending; tail: float32 [n], -inf where k is all.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    tail: np.ndarray


def keep_top(log_probabilities: np.ndarray, k: int) -> TopLogprobs:
    """Return the k largest of each row [n, n_vocab]; all of them where the vocabulary has no more."""
    n_vocab = log_probabilities.shape[1]
    if k >= n_vocab:
        order = np.argsort(-log_probabilities, axis=1, kind="stable")
    else:
        order = np.argpartition(-log_probabilities, k, axis=1)[:, :k]
        order = np.take_along_axis(order, np.argsort(-np.take_along_axis(log_probabilities, order, 1), 1), 1)
    largest = np.take_along_axis(log_probabilities, order, axis=1)
    return TopLogprobs(order.astype(np.int32), largest, _log_rest(log_probabilities, order))


def _log_rest(log_probabilities: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Log of the mass of all tokens that are not in `order` [n, k], float32 [n]; summed, never subtracted from 1. A row
    at a time: one fits in a core's cache, all of a prompt do not."""
    mass_of_rest = np.empty(len(order))
    for number, (row, kept) in enumerate(zip(log_probabilities, order, strict=True)):
        masses = np.exp(row.astype(np.float64))
        masses[kept] = 0.0
        mass_of_rest[number] = masses.sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mass_of_rest), dtype=np.float32)


def kl_from_top(reference: TopLogprobs, other: np.ndarray) -> np.ndarray:
    """Return KL(reference || other) in nats, float64 [n], with all tokens beyond the reference's k taken as one.

    Never more than the full divergence, and equal to it where k is the whole vocabulary. `other`: [n, n_vocab].
    Raises ValueError where positions or vocabulary do not fit.
    """
    if len(reference.tokens) != len(other) or (reference.tokens.size and reference.tokens.max() >= other.shape[1]):
        raise ValueError(f"{reference.tokens.shape} and {other.shape} do not have the same positions and vocabulary")
    p = reference.log_probabilities.astype(np.float64)
    q = np.take_along_axis(other, reference.tokens.astype(np.int64), axis=1).astype(np.float64)
    over_top = (np.exp(p) * (p - q)).sum(axis=1)
    tail = reference.tail.astype(np.float64)
    if np.isneginf(tail).all():
        return np.asarray(np.maximum(over_top, 0.0))
    rest = _log_rest(other, reference.tokens).astype(np.float64)
    beyond = np.where(np.isneginf(tail), 0.0, np.exp(tail) * (np.maximum(tail, -1e4) - np.maximum(rest, -1e4)))
    return np.asarray(np.maximum(over_top + beyond, 0.0))


def kl_divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return KL(reference || other) in nats, float64 [n], of log-probabilities [n, n_vocab]; never below zero.

    Raises ValueError where the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"{reference.shape} and {other.shape} do not have the same positions and vocabulary")
    p, q = reference.astype(np.float64), other.astype(np.float64)
    return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0))


def same_top(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return whether both predict the same most probable token, bool [n], of log-probabilities [n, n_vocab]."""
    return np.asarray(reference.argmax(axis=1) == other.argmax(axis=1))
