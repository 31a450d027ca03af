"""What quantizing does to a model's KL divergence, estimated from the errors of its tensors and a few measured files.

A file's divergence is taken as a sum over its tensors' relative output errors, each times a sensitivity. Sensitivities
differ by orders of magnitude (a head's may be a hundred times a layer's), so their logarithms have a normal prior, in
which matrices of the same part of all layers, and of the same layer, have much in common: a few dozen files say
something of hundreds of matrices, and every estimate has an error. The fit is the prior's maximum a posteriori by
Gauss-Newton, its covariance that of the last step (Laplace's approximation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISE = 0.1  # standard deviation of a measured file's log KLD: what a sum does not explain
STEPS = 50


@dataclass(frozen=True)
class Prior:
    """Standard deviations of the logarithms of sensitivities: of what all of them have in common, of what matrices of
    the same part and of the same layer have, and of each one's own."""

    common: float = 3.0
    same_part: float = 1.5
    same_layer: float = 0.7
    own: float = 0.3


LEARNED = Prior()  # errors of outputs say nothing of what they cost
# Where errors are foretold divergences (method/fisher.py), which measured ones are off from by a factor. Of 84 matrices
# of each trained model in IQ1_M, its logarithm had standard deviations of 0.1 over parts, 0.2 and 0.5 over layers, and
# 0.3 and 0.6 besides. Widths of about these found a worse plan for one of the models than wider ones.
FORETOLD = Prior(common=1.0, same_part=0.4, same_layer=0.8, own=0.7)


@dataclass(frozen=True)
class TensorGroup:
    """A kind of matrix in one layer (`layer` None: embeddings or head), which has its own sensitivity."""

    layer: int | None
    part: str


@dataclass(frozen=True)
class Sensitivity:
    """KLD in nats for a relative output error of 1: mean [n_tensor_groups] and covariance [n_tensor_groups,
    n_tensor_groups] of the logarithms."""

    log_mean: np.ndarray
    covariance: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return np.asarray(np.exp(self.log_mean))

    def predict(self, errors: np.ndarray) -> tuple[float, float]:
        """Return the KLD, and its standard error, of a file whose tensor groups have these errors [n_tensor_groups]."""
        value = float(errors @ self.values)
        return value, float(np.hypot(self.standard_error(errors), NOISE * value))

    def standard_error(self, errors: np.ndarray) -> float:
        """Return the standard error of the KLD of errors, or of a difference of errors, [n_tensor_groups]."""
        slope = errors * self.values
        return float(np.sqrt(max(0.0, slope @ self.covariance @ slope)))

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """Return plausible sensitivities [n_tensor_groups], drawn at random."""
        values, vectors = np.linalg.eigh(self.covariance)
        normal = rng.standard_normal(len(values)) * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(np.exp(self.log_mean + vectors @ normal))


def fit(
    tensor_groups: Sequence[TensorGroup],
    errors: np.ndarray,
    measured: np.ndarray,
    noise: np.ndarray,
    prior: Prior = LEARNED,
) -> Sensitivity:
    """Return the sensitivities after files of `errors` [n_files, n_tensor_groups] had the divergences `measured`
    [n_files], in nats.

    `noise` [n_files]: standard deviation of each one's logarithm, of what a sum does not explain. Without files the
    sensitivities are 1: estimates are then in no unit, and only compare.
    """
    prior_covariance = _relation(tensor_groups, prior)
    if not len(measured):
        return Sensitivity(np.zeros(len(tensor_groups)), prior_covariance)
    log_klds = np.log(np.maximum(measured, 1e-12))
    usual = np.full(len(tensor_groups), float(np.median(log_klds - np.log(errors.sum(axis=1)))))
    mean, noise_covariance = usual, np.diag(noise**2)
    slope = _slope(errors, mean)
    for _ in range(STEPS):
        gain = prior_covariance @ slope.T
        residual = log_klds - np.log(errors @ np.exp(mean)) + slope @ (mean - usual)
        step = usual + gain @ np.linalg.solve(slope @ gain + noise_covariance, residual) - mean
        mean = mean + step / max(1.0, float(np.abs(step).max()))  # at most a factor e at once
        slope = _slope(errors, mean)
        if np.abs(step).max() < 1e-6:
            break
    gain = prior_covariance @ slope.T
    return Sensitivity(mean, prior_covariance - gain @ np.linalg.solve(slope @ gain + noise_covariance, gain.T))


def _slope(errors: np.ndarray, log_sensitivities: np.ndarray) -> np.ndarray:
    """Derivative of each file's log KLD by each log sensitivity: the tensor groups' shares of it."""
    parts = errors * np.exp(log_sensitivities)
    return np.asarray(parts / parts.sum(axis=1, keepdims=True))


def _relation(tensor_groups: Sequence[TensorGroup], prior: Prior) -> np.ndarray:
    """The prior's covariance, [n_tensor_groups, n_tensor_groups]."""
    parts = np.array([tensor_group.part for tensor_group in tensor_groups])
    layers = np.array([-1 if tensor_group.layer is None else tensor_group.layer for tensor_group in tensor_groups])
    same_layer = (layers[:, None] == layers[None, :]) & (layers >= 0)[:, None]
    same_part = parts[:, None] == parts[None, :]
    covariance = prior.common**2 + prior.same_part**2 * same_part + prior.same_layer**2 * same_layer
    return np.asarray(covariance + prior.own**2 * np.eye(len(tensor_groups)), np.float64)
