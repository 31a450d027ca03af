"""BiLLM's quantizer (Huang et al., ICML 2024, arXiv:2402.04291), from its paper: about one bit a weight.

Columns are taken in blocks. In each, the columns whose loss would cost most by the Hessian are salient: two binary
matrices stand for them, the second for what the first has left. All other weights are divided by their size at a break
point, and either group is binarized by itself. The block's errors are then made up for by the columns that follow, as
in GPTQ (Frantar et al., 2023). It serves comparisons alone: no file format holds what comes out, so weights are
returned as they would be computed with, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
Mask = NDArray[np.bool_]

BLOCK = 128  # columns that are quantized together (section 4.1)
DAMPING = 0.01  # of the Hessian's mean diagonal, added to it: GPTQ's
BREAKS = np.linspace(0.05, 0.95, 37)  # break points that are tried, as shares of the largest weight
MOST_SALIENT = 30  # columns of a block: more cost more bits than the paper's 1.1 a weight


@dataclass(frozen=True)
class Binarized:
    """Weights [n_out, n_in] as they are computed with, and how many of the columns took two bits a weight."""

    weights: Weights
    n_salient: int

    @property
    def bits(self) -> float:
        """Return bits a weight as the paper counts them: one for every sign, without scales and marks of groups."""
        return 1.0 + self.n_salient / int(self.weights.shape[1])


def binary(weights: Weights, mask: Mask | None = None) -> Weights:
    """Return sign(w) times the mean |w| of its row [n_out, n_in]: of all such matrices the nearest (equation 3). Where
    `mask` is false, weights are no part of it, and 0."""
    if mask is None:
        mask = np.ones(weights.shape, np.bool_)
    sizes = np.where(mask, np.abs(weights), 0).sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1)
    signs = np.where(weights < 0, -1, 1)
    return np.where(mask, signs * sizes, 0).astype(np.float32)


def residual(weights: Weights, order: int = 2) -> Weights:
    """Return the sum of so many binary matrices, each of what those before have left (equation 7)."""
    total = np.zeros_like(weights)
    for _ in range(order):
        total += binary(weights - total)
    return total


def split(weights: Weights) -> Weights:
    """Return weights whose small and large ones are binarized apart, at the break point of the least error (equations
    9 to 11): as weights are distributed like a bell, most are small, and the few others lie far away."""
    sizes = np.abs(weights)
    largest = float(sizes.max(initial=0.0))
    best, least = binary(weights), np.inf
    for share in BREAKS:
        is_small = sizes <= share * largest
        tried = binary(weights, is_small) + binary(weights, ~is_small)
        if (error := _error(weights, tried)) < least:
            best, least = tried, error
    return best


def salient_columns(weights: Weights, inverse_diagonal: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the salient columns of a block, those whose quantization costs most first.

    Columns are ordered by sum_rows w^2 / d^2, d being the diagonal [n_in] of the inverse Hessian's Cholesky factor
    (equation 4), and as many of the first are taken as make the block's error least (section 3.2).
    """
    order = np.argsort(-((weights.astype(np.float64) / inverse_diagonal) ** 2).sum(0), kind="stable")
    best, least = 0, _error(weights, binary(weights))
    for count in range(1, min(MOST_SALIENT, len(order) - 1) + 1):
        first, rest = order[:count], order[count:]
        error = _error(weights[:, first], residual(weights[:, first])) + _error(
            weights[:, rest], binary(weights[:, rest])
        )
        if error < least:
            best, least = count, error
    return order[:best]


def quantize(weights: Weights, hessian: NDArray[np.float64]) -> Binarized:
    """Binarize a matrix [n_out, n_in] of a linear layer; `hessian` [n_in, n_in] is X X' of its inputs.

    Columns whose inputs are always 0 become 0. Raises numpy.linalg.LinAlgError where the Hessian is not finite.
    """
    left = weights.astype(np.float64)
    curvature = hessian.astype(np.float64).copy()
    dead = np.diag(curvature) == 0
    curvature[dead, dead] = 1
    left[:, dead] = 0
    curvature[np.diag_indices_from(curvature)] += DAMPING * np.mean(np.diag(curvature))
    factor = np.linalg.cholesky(np.linalg.inv(curvature)).T  # upper: what a column's error does to those that follow
    quantized, n_salient = np.zeros(left.shape, np.float32), 0
    for start in range(0, left.shape[1], BLOCK):
        columns = slice(start, min(start + BLOCK, left.shape[1]))
        block, diagonal = left[:, columns].astype(np.float32), np.diag(factor)[columns]
        salient = salient_columns(block, diagonal)
        others = np.setdiff1d(np.arange(block.shape[1]), salient)
        of_block = np.zeros_like(block)
        of_block[:, salient] = residual(block[:, salient])
        of_block[:, others] = split(block[:, others])
        errors = (left[:, columns] - of_block) / diagonal
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
        quantized[:, columns] = of_block
        n_salient += len(salient)
    quantized[:, dead] = 0
    return Binarized(quantized, n_salient)


def _error(weights: Weights, approximation: Weights) -> float:
    return float(((weights - approximation) ** 2).sum(dtype=np.float64))
