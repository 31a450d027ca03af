"""Estimates the entropies of all layers from the vectors that a pass kept. An interrupted run keeps its results."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from luq_gguf.calibration import resume
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors
from luq_gguf.core import machine, process_state
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.types import LayerEntropy
from luq_gguf.method import entropy

GROUPS = ("all", *MODALITIES)
SAVE_SECONDS = 30.0

Entropies = tuple[tuple[LayerEntropy, ...], dict[str, tuple[float, ...]], dict[str, np.ndarray]]


def entropies(
    sampled: SampledVectors,
    n_layers: int,
    seeds: list[int],
    work: Path,
    key: str,
    on_layers: Callable[[int, int], None],
) -> Entropies:
    """Return layers, rankings by way of estimating, and histograms int [n_seeds, K] by "<group>.<layer>".

    `work` keeps entropies.npz for `key`. Raises CalibrationError where tokens are fewer than clusters, or not finite.
    """
    n_tokens = sum(sampled.count(name) for name in MODALITIES)
    if n_tokens < entropy.K:
        raise CalibrationError(
            f"The calibration set has {n_tokens} tokens; "
            f"the entropy estimate needs at least {entropy.K}, and several thousand to be reliable.",
            "Give more samples (--samples) or longer text.",
        )
    path, key = work / "entropies.npz", f"{key} {seeds}"
    histograms = resume.load(path, key) or {}
    groups = [g for g in GROUPS if g == "all" or sampled.count(g) >= entropy.K]
    last_saved, first_half = time.monotonic(), sampled.samples_of_all() % 2 == 0
    for layer in range(n_layers):
        on_layers(layer, n_layers)
        for group in groups:
            if f"{group}.{layer}" not in histograms:
                histograms |= _histograms(sampled, group, layer, seeds, first_half)
        if time.monotonic() - last_saved > SAVE_SECONDS:
            resume.save(path, key, histograms)
            last_saved = time.monotonic()
    on_layers(n_layers, n_layers)
    layers = tuple(_layer(histograms, layer, groups) for layer in range(n_layers))
    rankings = {f"seed-{seed}": _bits(histograms, "all", n_layers, i) for i, seed in enumerate(seeds)}
    others = sorted({name.rpartition(".")[0] for name in histograms} - set(GROUPS))
    rankings |= {way: _bits(histograms, way, n_layers, 0) for way in others}
    return layers, rankings, histograms


def _histograms(
    sampled: SampledVectors, group: str, layer: int, seeds: list[int], first_half: np.ndarray
) -> dict[str, np.ndarray]:
    vectors = sampled.vectors(group, layer)
    if not np.isfinite(vectors).all():
        raise CalibrationError(
            f"Layer {layer} outputs values that are not finite in {sampled.dtype}.",
            "Check that the checkpoint is intact. Another --device may compute in another precision.",
        )
    everything = np.arange(len(vectors))
    runs = [(group, everything, entropy.K, seed) for seed in seeds]
    if group == "all":
        runs += [(way, rows, k, seeds[0]) for way, (rows, k) in entropy.variants(first_half).items()]

    def clustered(run: tuple[str, np.ndarray, int, int]) -> np.ndarray:
        _, rows, k, seed = run
        return entropy.cluster_histogram(vectors[rows], k, seed)

    # Each K-means has one thread of its own, so the figures are the same however many run at once.
    # Where fewer vectors differ than there are clusters, some of these stay empty, as they should.
    quiet = process_state.warnings_filtered("ignore", ConvergenceWarning)
    with quiet, threadpool_limits(1), ThreadPoolExecutor(_at_once(vectors.nbytes)) as pool:
        counts = list(pool.map(clustered, runs))
    names = dict.fromkeys(name for name, *_ in runs)
    return {
        f"{name}.{layer}": np.array([n for (of, *_), n in zip(runs, counts, strict=True) if of == name])
        for name in names
    }


def _at_once(n_bytes: int) -> int:
    """How many K-means of vectors of so many bytes run at once: as many as this process has threads and memory for."""
    room = machine.available_bytes() // (4 * n_bytes)  # a copy, one in float64 for the start, and distances
    return max(1, min(machine.cores(logical=True), torch.get_num_threads(), room))


def _layer(histograms: dict[str, np.ndarray], layer: int, groups: list[str]) -> LayerEntropy:
    bits = {g: np.array([entropy.histogram_entropy(c) for c in histograms[f"{g}.{layer}"]]) for g in groups}
    mean, spread = entropy.mean_and_spread(bits["all"])
    by_modality = {m: float(bits[m].mean()) if m in bits else None for m in MODALITIES}
    n_tokens = int(histograms[f"all.{layer}"][0].sum())
    return LayerEntropy(layer, mean, spread, n_tokens, by_modality)


def _bits(histograms: dict[str, np.ndarray], way: str, n_layers: int, row: int) -> tuple[float, ...]:
    return tuple(entropy.histogram_entropy(histograms[f"{way}.{layer}"][row]) for layer in range(n_layers))
