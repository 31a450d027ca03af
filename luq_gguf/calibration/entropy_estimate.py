"""Estimates the entropies of all layers from the vectors that a pass kept. An interrupted run keeps its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from luq_gguf.calibration import products, resume
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors
from luq_gguf.core import machine
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.types import LayerEntropy
from luq_gguf.method import entropy, kmeans

GROUPS = ("all", *MODALITIES)
SAVE_SECONDS = 30.0
METHOD = "K-means on whole token vectors (k-means++ on up to 4,096 of them, Lloyd's steps, n_init=1)"

Entropies = tuple[tuple[LayerEntropy, ...], dict[str, tuple[float, ...]], dict[str, np.ndarray]]


def entropies(
    sampled: SampledVectors,
    n_layers: int,
    seeds: list[int],
    work: Path,
    key: str,
    on_layers: Callable[[int, int], None],
    device: torch.device = torch.device("cpu"),
) -> Entropies:
    """Return layers, rankings by way of estimating, and histograms int [n_seeds, K] by "<group>.<layer>".

    Products are computed on `device`. `work` keeps entropies.npz for `key`. Raises CalibrationError where tokens are
    fewer than clusters, or not finite.
    """
    n_tokens = sum(sampled.count(name) for name in MODALITIES)
    if n_tokens < entropy.K:
        raise CalibrationError(
            f"The calibration set has {n_tokens} tokens; "
            f"the entropy estimate needs at least {entropy.K}, and several thousand to be reliable.",
            "Give more samples (--samples) or longer text.",
        )
    path, key = work / "entropies.npz", f"{key} {seeds} {METHOD} {device.type}"
    histograms = resume.load(path, key) or {}
    groups = [g for g in GROUPS if g == "all" or sampled.count(g) >= entropy.K]
    last_saved, first_half = time.monotonic(), sampled.samples_of_all() % 2 == 0
    threads = min(machine.cores(logical=True), torch.get_num_threads())
    with products.fastest(sampled.dtype, device) as product:
        cluster = partial(kmeans.cluster_histograms, threads=threads, product=product)
        for layer in range(n_layers):
            on_layers(layer, n_layers)
            for group in groups:
                if group != "all" and sampled.count(group) == n_tokens:  # the same vectors
                    histograms[f"{group}.{layer}"] = histograms[f"all.{layer}"]
                elif f"{group}.{layer}" not in histograms:
                    histograms |= _histograms(sampled, group, layer, seeds, first_half, cluster)
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
    sampled: SampledVectors,
    group: str,
    layer: int,
    seeds: list[int],
    first_half: np.ndarray,
    cluster: Callable[[np.ndarray, Sequence[kmeans.Run]], list[np.ndarray]],
) -> dict[str, np.ndarray]:
    vectors = sampled.vectors(group, layer)
    if not np.isfinite(vectors).all():
        raise CalibrationError(
            f"Layer {layer} outputs values that are not finite in {sampled.dtype}.",
            "Check that the checkpoint is intact. Another --device may compute in another precision.",
        )
    ways = entropy.variants(first_half) if group == "all" else {}
    whole = {name: k for name, (rows, k) in ways.items() if len(rows) == len(vectors)}  # of all vectors, other K
    runs = [kmeans.Run(entropy.K, seed) for seed in seeds] + [kmeans.Run(k, seeds[0]) for k in whole.values()]
    counts = cluster(vectors, runs)
    histograms = {f"{group}.{layer}": np.array(counts[: len(seeds)])}
    histograms |= {f"{way}.{layer}": of_way[None] for way, of_way in zip(whole, counts[len(seeds) :], strict=True)}
    for way, (rows, k) in ways.items():
        if way not in whole:
            histograms[f"{way}.{layer}"] = cluster(vectors[rows], [kmeans.Run(k, seeds[0])])[0][None]
    return histograms


def _layer(histograms: dict[str, np.ndarray], layer: int, groups: list[str]) -> LayerEntropy:
    bits = {g: np.array([entropy.histogram_entropy(c) for c in histograms[f"{g}.{layer}"]]) for g in groups}
    mean, spread = entropy.mean_and_spread(bits["all"])
    by_modality = {m: float(bits[m].mean()) if m in bits else None for m in MODALITIES}
    n_tokens = int(histograms[f"all.{layer}"][0].sum())
    return LayerEntropy(layer, mean, spread, n_tokens, by_modality)


def _bits(histograms: dict[str, np.ndarray], way: str, n_layers: int, row: int) -> tuple[float, ...]:
    return tuple(entropy.histogram_entropy(histograms[f"{way}.{layer}"][row]) for layer in range(n_layers))
