"""What a type will cost a matrix in KL divergence, foretold from gradients of the model at its 16-bit weights.

To second order, a small change d of the logits at a position costs d' F d / 2 with F = diag(p) - p p', p being the
model's own distribution there. With random signs e, one for each token of the vocabulary, v = r e - p (r . e) with
r = sqrt(p) has just this F as its covariance, and mean 0. (Labels drawn from p, less p, have too, and are what F is
usually estimated with: Kunstner et al., 2019, arXiv:1905.12558. But where the model is sure, hardly any is another than
the likeliest, and a few that are make the whole estimate.)

So let L = sum_t v_t . z_t be drawn of the logits z_t at all scored positions of a sequence. A small change dW of a
matrix that multiplies inputs x_t and gets gradients g_t = dL/d(W x_t) changes L by s = sum_t g_t . (dW x_t), to first
order, and half the mean of s^2 is the divergence that it costs, added up over the positions: what different v_t add is
uncorrelated. All positions at which the matrix is used count, pictures among them. As s = <G, dW> with
G = sum_t g_t x_t', one G of a sequence serves all types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from luq_gguf.core.fisher import ForetoldKlds
from luq_gguf.method.tensor_types import layer_of


def mean_kld(squares: np.ndarray, draws: int, n_positions: int) -> np.ndarray:
    """Return nats per position [n_types] from the sums of s^2 over sequences and draws [n_types]."""
    return np.asarray(squares) / (2 * draws * max(1, n_positions))


def embedding_squares(slopes: np.ndarray, vectors: np.ndarray, changes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return expected s^2 in each type [n_types], added up over tokens whose embeddings nobody has quantized.

    `slopes` and `vectors` [n_tokens, width] are gradients by the embeddings of tokens, and these; `changes`
    [n_types, rows, width] and `weights` [rows, width] are of other tokens. A row's changes are taken as independent, of
    mean 0, and as large in proportion to its length as the others'.
    """
    variances = (changes.astype(np.float64) ** 2).mean(1) / ((weights.astype(np.float64) ** 2).sum(1).mean() or 1.0)
    return np.asarray(((slopes**2) * (vectors**2).sum(1, keepdims=True)).sum(0) @ variances.T)


def kld_of_layers(foretold: ForetoldKlds, types: Mapping[str, str], others: Mapping[str, str]) -> dict[int, float]:
    """Return nats that each layer adds with these types of its matrices instead of `others`."""
    filled = costs(foretold, {name: {types[name], others[name]} for name in foretold.errors if name in types})
    klds: dict[int, float] = {}
    for name, of_types in filled.items():
        layer = layer_of(name)
        if layer is not None:
            klds[layer] = klds.get(layer, 0.0) + of_types[types[name]] - of_types[others[name]]
    return klds


def costs(foretold: ForetoldKlds, types: Mapping[str, Collection[str]]) -> dict[str, dict[str, float]]:
    """Return nats for each of these types of each matrix: name -> type -> nats; 0 for types that lose nothing.

    A matrix without gradients costs its relative error times what matrices of the same part usually cost for theirs, or
    all where no such matrix is known.
    """
    by_part: dict[str, list[float]] = {}
    for name, of_types in foretold.klds.items():
        errors = foretold.errors[name]
        ratios = [kld / errors[kind] for kind, kld in of_types.items() if kld > 0 and errors[kind] > 0]
        by_part.setdefault(_part(name), []).extend(ratios)
    of_all = [ratio for ratios in by_part.values() for ratio in ratios] or [1.0]
    filled: dict[str, dict[str, float]] = {}
    for name, kinds in types.items():
        known, of_errors = foretold.klds.get(name, {}), foretold.errors.get(name, {})
        usual = float(np.exp(np.mean(np.log(by_part.get(_part(name)) or of_all))))
        filled[name] = {
            kind: known[kind] if kind in known else usual * of_errors.get(kind, 0.0) for kind in sorted(kinds)
        }
    return filled


def _part(name: str) -> str:
    return name.split(".", 2)[-1]
