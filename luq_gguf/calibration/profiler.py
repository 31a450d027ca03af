"""Makes a profile from the calibration set: one pass through the reference model (forward_pass.py), then entropies of
what it kept (entropy_estimate.py). Paper, steps 1 and 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from msgspec import UNSET

from luq_gguf.calibration import entropy_estimate
from luq_gguf.calibration.forward_pass import CAPACITY, forward, pass_key, run_pass
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors
from luq_gguf.core import overlap
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.chat_date import CHAT_DATE
from luq_gguf.core.profile_facts import CalibrationFacts, EstimatorFacts
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.core.types import COLUMNS, ImportanceMatrix, Profile
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.method import entropy, ranking

__all__ = [
    "CAPACITY",
    "SEEDS",
    "ProfileInputs",
    "Progress",
    "calibration_facts",
    "finalize_profile",
    "forward",
    "profile",
]

SEEDS = 5  # K-means repetitions; two seeds rank a real model's layers with a Kendall tau of 0.73 only

ProfileResult = tuple[Profile, ImportanceMatrix, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Progress:
    """Callbacks: what share of the model is loaded; then done and total of the two halves, of samples and of layers."""

    on_load: Callable[[float], None] = lambda share: None
    on_samples: Callable[[int, int], None] = lambda done, total: None
    on_layers: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class ProfileInputs:
    """What the whole set's pass left, in one process or in several: what `finalize_profile` makes a profile of.

    `calibration` is what profile.json says of it; energies are float64 [n_in] by tensor; `dtype` as torch calls it.
    """

    model: str
    calibration: CalibrationFacts
    matrix: ImportanceMatrix
    vectors: SampledVectors
    energies: dict[str, np.ndarray]
    n_layers: int
    dtype: str


def profile(
    checkpoint: Checkpoint,
    calibration: CalibrationData,
    sources: Mapping[str, MatrixSource],
    work: Path,
    *,
    placement: Placement,
    seeds: Sequence[int] | None = None,
    progress: Progress = Progress(),
) -> ProfileResult:
    """Profile a model; `work` keeps the state of an interrupted pass.

    Returns what `finalize_profile` does. Raises CalibrationError where the set has fewer tokens than clusters.
    """
    key = pass_key(checkpoint, calibration, placement.dtype)
    pass_ = run_pass(
        checkpoint,
        calibration,
        sources,
        work,
        placement=placement,
        on_load=progress.on_load,
        on_samples=progress.on_samples,
    )
    with pass_ as pass_result:
        inputs = ProfileInputs(
            checkpoint.name,
            calibration_facts(calibration),
            pass_result.matrix,
            pass_result.reservoir,
            pass_result.energies,
            pass_result.reservoir.n_layers,
            str(pass_result.dtype).removeprefix("torch."),
        )
        return finalize_profile(
            inputs, calibration.seed, work, key, seeds=seeds, progress=progress, device=placement.device
        )


def finalize_profile(
    inputs: ProfileInputs,
    seed: int,
    work: Path,
    key: str,
    *,
    seeds: Sequence[int] | None = None,
    progress: Progress = Progress(),
    device: torch.device = torch.device("cpu"),
) -> ProfileResult:
    """Estimate the entropies of what a pass kept, on `device`; `work` keeps those of finished layers, for `key`.

    Returns the profile, the importance matrix, and arrays: cluster histograms int [n_seeds, K] by "<group>.<layer>",
    and column energies (decoder.Matrices) by "columns.<tensor>".
    """
    seeds = list(seeds) if seeds is not None else [seed + i for i in range(SEEDS)]
    matrix, vectors = inputs.matrix, inputs.vectors
    layers, rankings, histograms = entropy_estimate.entropies(
        vectors, inputs.n_layers, seeds, work, key, progress.on_layers, device
    )
    estimator = EstimatorFacts(
        method=entropy_estimate.METHOD,
        k=entropy.K,
        seeds=tuple(seeds),
        spread="standard deviation over seeds",
        token_vectors={name: vectors.count(name) for name in MODALITIES},
        capacity=vectors.capacity,
        dtype=inputs.dtype,
    )
    n_text = matrix.n_samples - inputs.calibration.n_multimodal
    lengths = [length for _, _, of_batch in vectors.seen for length in of_batch]
    calibration = replace(
        inputs.calibration,
        n_text=n_text,
        n_tokens=matrix.n_tokens,
        largest_sample_share=round(max(lengths) / sum(lengths), 4) if lengths else UNSET,
    )
    columns = {COLUMNS + name: energy for name, energy in inputs.energies.items()}
    taus = ranking.agreement(rankings)
    return Profile(inputs.model, layers, estimator, calibration, rankings, taus), matrix, histograms | columns


def calibration_facts(calibration: CalibrationData) -> CalibrationFacts:
    """Return what profile.json says about a calibration set; n_text and n_tokens are known after the pass."""
    return CalibrationFacts(
        sources=calibration.sources,
        images=calibration.image_source,
        text=calibration.text_source,
        revisions=dict(calibration.revisions),
        alpha=calibration.alpha,
        n_multimodal=len(calibration.multimodal),
        n_text=None,
        n_tokens=None,
        seed=calibration.seed,
        sha256=calibration.sha256,
        skipped_images=calibration.skipped,
        cut_samples=calibration.n_cut or UNSET,
        seen=overlap.seen(calibration.multimodal, calibration.lines),
        chat_date=CHAT_DATE.isoformat(),
        pixels=calibration.pixels if calibration.multimodal else UNSET,
        limited_images=calibration.n_limited or UNSET,
        image_token_limit=calibration.image_limit if calibration.n_limited else UNSET,
    )
