"""One pass of the calibration set through the reference model: importance and entropies (paper, steps 1 and 3).

The pass saves its state now and then, so that an interrupted one goes on where it stopped; the finished entropies of
each layer are saved too. State of another model or calibration set is ignored.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luq_gguf import entropy
from luq_gguf.errors import CalibrationError
from luq_gguf.hf import reference
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.reservoir import MODALITIES, Reservoir
from luq_gguf.hf.taps import Taps, decoder_layers, decoder_matrices
from luq_gguf.hf.tensor_names import TensorNames
from luq_gguf.values import COLUMNS, CalibrationSet, ImportanceMatrix, LayerEntropy, Profile

CAPACITY = 8192  # token vectors per layer and modality
SEEDS = 5  # K-means repetitions; two seeds rank a real model's layers with a Kendall tau of 0.73 only
SAVE_SECONDS = 30.0
GROUPS = ("all", *MODALITIES)
STATE = 2  # what the saved state of an interrupted pass holds: other numbers are not read


@dataclass(frozen=True)
class Progress:
    """Callbacks of the two halves: done and total, of samples and of layers."""

    on_samples: Callable[[int, int], None] = lambda done, total: None
    on_layers: Callable[[int, int], None] = lambda done, total: None


def profile(
    checkpoint: Checkpoint,
    calibration: CalibrationSet,
    names: TensorNames,
    work: Path,
    *,
    device: str = "auto",
    seeds: Sequence[int] | None = None,
    progress: Progress = Progress(),
) -> tuple[Profile, ImportanceMatrix, dict[str, np.ndarray]]:
    """Profile a model; `work` keeps the state of an interrupted pass.

    Returns the profile, the importance matrix, and arrays: cluster histograms int [n_seeds, K] by "<group>.<layer>",
    and column energies (taps.Matrices) by "columns.<tensor>".
    Raises CalibrationError where the set has fewer tokens than clusters.
    """
    seeds = list(seeds) if seeds is not None else [calibration.seed + i for i in range(SEEDS)]
    work.mkdir(parents=True, exist_ok=True)
    key = json.dumps(
        [checkpoint.fingerprint, calibration.sha256, calibration.n_text, calibration.seed, CAPACITY, STATE]
    )
    state_path = work / "pass.npz"
    state = _load(state_path, key)
    if state is None:
        for name in MODALITIES:
            (work / f"reservoir-{name}.bin").unlink(missing_ok=True)
    model, processor = reference.load_reference(checkpoint, reference.choose_device(device))
    config: Any = model.config
    width = config.get_text_config().hidden_size
    dtype = next(model.parameters()).dtype
    reservoir = Reservoir(work, CAPACITY, len(decoder_layers(model)), width, dtype, calibration.seed)
    try:
        matrix = _pass(model, processor, calibration, names, reservoir, state, state_path, key, progress)
        energies = decoder_matrices(model, names).column_energies()
        n_layers = len(decoder_layers(model))
        del model
        if max(reservoir.count("multimodal") + reservoir.count("text"), 0) < entropy.K:
            raise CalibrationError(
                f"The calibration set gives {reservoir.count('multimodal') + reservoir.count('text')} tokens; "
                f"the entropy estimate needs {entropy.K} at least, and some thousands to be worth something.",
                "Give more samples (--samples) or longer text.",
            )
        layers, rankings, histograms = _entropies(reservoir, n_layers, seeds, work, key, progress)
        counts = {name: reservoir.count(name) for name in MODALITIES}
    finally:
        reservoir.close()
    estimator: dict[str, object] = {
        "method": "K-means on whole token vectors (scikit-learn, n_init=1)",
        "k": entropy.K,
        "seeds": seeds,
        "spread": "standard deviation over seeds",
        "token_vectors": counts,
        "capacity": CAPACITY,
        "dtype": str(dtype).removeprefix("torch."),
    }
    described: dict[str, object] = {
        "sources": list(calibration.sources),
        "images": calibration.image_source,
        "text": calibration.text_source,
        "revisions": dict(calibration.revisions),
        "alpha": calibration.alpha,
        "n_multimodal": len(calibration.multimodal),
        "n_text": matrix.n_samples - len(calibration.multimodal),
        "n_tokens": matrix.n_tokens,
        "seed": calibration.seed,
        "sha256": calibration.sha256,
        "skipped_images": list(calibration.skipped),
    }
    columns = {COLUMNS + name: energy for name, energy in energies.items()}
    return Profile(checkpoint.name, layers, estimator, described, rankings), matrix, histograms | columns


def _pass(
    model: torch.nn.Module,
    processor: object,
    calibration: CalibrationSet,
    names: TensorNames,
    reservoir: Reservoir,
    state: dict[str, np.ndarray] | None,
    state_path: Path,
    key: str,
    progress: Progress,
) -> ImportanceMatrix:
    taps = Taps(model, names, reservoir)
    start, done = 0, 0
    if state is not None:
        sums = {name.removeprefix("sum."): value for name, value in state.items() if name.startswith("sum.")}
        taps.restore(ImportanceMatrix(sums, {name: state[f"count.{name}"] for name in sums}))
        for name in MODALITIES:
            reservoir.keys[name][:] = state[f"keys.{name}"]
            reservoir.samples[name][:] = state[f"samples.{name}"]
        start, done = int(state["batch"]), int(state["samples"])

    def save(batch: int) -> None:
        matrix = taps.importance(done)
        reservoir.flush()
        _save(
            state_path,
            key,
            {f"sum.{name}": value for name, value in matrix.in_sum2.items()}
            | {f"count.{name}": value for name, value in matrix.counts.items()}
            | {f"keys.{name}": value for name, value in reservoir.keys.items()}
            | {f"samples.{name}": value for name, value in reservoir.samples.items()}
            | {"batch": np.array(batch), "samples": np.array(done)},
        )

    total = len(calibration.multimodal) + calibration.n_text
    saved, batch_number = time.monotonic(), start
    progress.on_samples(done, total)
    with torch.inference_mode(), taps.listening():
        for batch in reference.batches(model, processor, calibration, start):
            taps.expect(batch.valid, batch.multimodal, batch.ids)
            forward(model, batch)
            done += len(batch.ids)
            batch_number += 1
            progress.on_samples(done, total)
            if time.monotonic() - saved > SAVE_SECONDS:
                save(batch_number)
                saved = time.monotonic()
    save(batch_number)
    progress.on_samples(done, done)
    return taps.importance(done)


def forward(model: torch.nn.Module, batch: reference.Batch) -> None:
    """One forward pass without the head, whose logits over a large vocabulary nobody reads."""
    model.base_model(**batch.inputs, use_cache=False)  # type: ignore[operator]


def _entropies(
    reservoir: Reservoir, n_layers: int, seeds: list[int], work: Path, key: str, progress: Progress
) -> tuple[tuple[LayerEntropy, ...], dict[str, tuple[float, ...]], dict[str, np.ndarray]]:
    path, key = work / "entropies.npz", f"{key} {seeds}"
    histograms = _load(path, key) or {}
    groups = [g for g in GROUPS if g == "all" or reservoir.count(g) >= entropy.K]
    saved, first_half = time.monotonic(), reservoir.samples_of_all() % 2 == 0
    for layer in range(n_layers):
        progress.on_layers(layer, n_layers)
        for group in groups:
            if f"{group}.{layer}" not in histograms:
                vectors = reservoir.vectors(group, layer)
                if not np.isfinite(vectors).all():
                    raise CalibrationError(
                        f"Layer {layer} puts out values that are not finite in {reservoir._dtype}.",
                        "Is the checkpoint intact? Another --device may compute in another precision.",
                    )
                counts = [entropy.cluster_histogram(vectors.copy(), entropy.K, seed) for seed in seeds]
                if group == "all":
                    ways = entropy.variant_histograms(vectors, first_half, seeds[0])
                    histograms |= {f"{way}.{layer}": found[None] for way, found in ways.items()}
                histograms[f"{group}.{layer}"] = np.array(counts)
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(path, key, histograms)
            saved = time.monotonic()
    progress.on_layers(n_layers, n_layers)
    layers = []
    for layer in range(n_layers):
        bits = {g: np.array([entropy.histogram_entropy(c) for c in histograms[f"{g}.{layer}"]]) for g in groups}
        mean, spread = entropy.mean_and_spread(bits["all"])
        by_modality = {m: float(bits[m].mean()) if m in bits else None for m in MODALITIES}
        n_tokens = int(histograms[f"all.{layer}"][0].sum())
        layers.append(LayerEntropy(layer, mean, spread, n_tokens, by_modality))
    rankings = {f"seed-{seed}": _bits(histograms, "all", n_layers, i) for i, seed in enumerate(seeds)}
    others = sorted({name.rpartition(".")[0] for name in histograms} - set(GROUPS))
    rankings |= {way: _bits(histograms, way, n_layers, 0) for way in others}
    return tuple(layers), rankings, histograms


def _bits(histograms: dict[str, np.ndarray], way: str, n_layers: int, row: int) -> tuple[float, ...]:
    return tuple(entropy.histogram_entropy(histograms[f"{way}.{layer}"][row]) for layer in range(n_layers))


def _save(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), **arrays)  # type: ignore[arg-type]
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Saved arrays, None where there are none, or of other inputs, or unreadable."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, KeyError):
        return None
    return arrays if str(arrays.pop("key", "")) == key else None
