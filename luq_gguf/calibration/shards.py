"""Reads and writes what one share of the pass leaves on disk.

shard.json             of which model, calibration set and share it is
shard.safetensors      importance sums and counts, column energies, keys of kept tokens, which samples were seen
vectors-<layer>.safetensors  the kept tokens' vectors "multimodal" and "text", [n, width], in the model's own type
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import UNSET, UnsetType
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from luq_gguf.calibration.forward_pass import PassResult, seen_arrays, seen_batches
from luq_gguf.calibration.profiler import calibration_facts
from luq_gguf.calibration.reservoir import MODALITIES
from luq_gguf.core import atomic, json_output
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.errors import ShardError
from luq_gguf.core.json_value import JsonValue
from luq_gguf.core.profile_facts import CalibrationFacts
from luq_gguf.core.types import COLUMNS, ImportanceMatrix, ShardSpec
from luq_gguf.hf.checkpoint import Checkpoint

VERSION = 1
AGAIN = "Make this shard again, or copy its folder again."


@dataclass(frozen=True)
class ShardFacts(JsonValue):
    """What shard.json says: which share of which request's pass it is, of which model and calibration set, and how many
    vectors it keeps, at most, of which width and type. `request_key` is the key of the whole request's profile;
    `model_contents` is the checkpoint's fingerprint, which the first version did not write."""

    version: int
    share: ShardSpec
    model: str
    model_sha256: str
    calibration: CalibrationFacts
    n_text_asked: int
    request_key: str
    n_samples: int
    n_layers: int
    width: int
    capacity: int
    dtype: str
    model_contents: str | UnsetType = UNSET


@dataclass(frozen=True)
class Shard:
    """One share's finished pass. `keys[modality]` and `samples[modality]` are [n_kept], in the
    order of the stored vectors; `seen` is `TokenSample.seen` of the share's own batches."""

    folder: Path
    facts: ShardFacts
    matrix: ImportanceMatrix
    energies: dict[str, np.ndarray]
    keys: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    seen: list[tuple[bool, tuple[int, ...], tuple[int, ...]]]

    @property
    def share(self) -> ShardSpec:
        return self.facts.share

    def vectors(self, name: str, layer: int) -> np.ndarray:
        """Read the vectors of a modality, float32 [n_kept, width]. Raises ShardError where the file cannot be read."""
        path = self.folder / _vectors_name(layer)
        try:
            with safe_open(path, "pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ShardError(f"{path} cannot be read: {error}.", AGAIN) from None
        return tensor.float().numpy()


def names(n_layers: int) -> tuple[str, ...]:
    """Return the names of a shard's files."""
    return ("shard.json", "shard.safetensors", *(_vectors_name(layer) for layer in range(n_layers)))


def _vectors_name(layer: int) -> str:
    return f"vectors-{layer:03d}.safetensors"


def write(
    folder: Path,
    share: ShardSpec,
    checkpoint: Checkpoint,
    calibration: CalibrationData,
    pass_result: PassResult,
    request_key: str,
) -> None:
    """Write a finished pass; `request_key` is the key that a profile of the whole request would have."""
    reservoir, matrix = pass_result.reservoir, pass_result.matrix
    taken = {name: np.isfinite(reservoir.keys[name]) for name in MODALITIES}
    arrays = (
        {f"sum.{name}": value for name, value in matrix.in_sum2.items()}
        | {f"count.{name}": value for name, value in matrix.counts.items()}
        | {COLUMNS + name: value for name, value in pass_result.energies.items()}
        | {f"keys.{name}": reservoir.keys[name][taken[name]] for name in MODALITIES}
        | {f"samples.{name}": reservoir.samples[name][taken[name]] for name in MODALITIES}
        | seen_arrays(reservoir)
    )
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # safetensors writes memory as it is
    facts = ShardFacts(
        version=VERSION,
        share=share,
        model=checkpoint.name,
        model_sha256=checkpoint.identity,
        model_contents=checkpoint.fingerprint,
        calibration=calibration_facts(calibration),
        n_text_asked=calibration.n_text,
        request_key=request_key,
        n_samples=matrix.n_samples,
        n_layers=reservoir.n_layers,
        width=reservoir.width,
        capacity=reservoir.capacity,
        dtype=str(pass_result.dtype).removeprefix("torch."),
    )
    for layer in range(reservoir.n_layers):
        tensors = {name: reservoir.stored_vectors(name, layer) for name in MODALITIES}
        _put(folder / _vectors_name(layer), lambda part, tensors=tensors: save_tensors(tensors, part))  # type: ignore[misc]
    _put(folder / "shard.safetensors", lambda part: save_arrays(arrays, part))
    _put(folder / "shard.json", lambda part: part.write_text(json_output.indented(facts.to_json())))


def _put(path: Path, save: Any) -> None:
    with atomic.whole(path) as part:
        save(part)
        part.chmod((path.parent / "run.json").stat().st_mode & 0o777)  # the library makes it private


def read(folder: Path) -> Shard:
    """Read all of a shard but its vectors. Raises ShardError where it cannot be read, or is from another version."""
    try:
        content = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ShardError(
                f"{folder} is a shard from another version of luq-gguf.", "Make all shards with one version."
            )
        facts = msgspec.convert(content, ShardFacts)
        arrays = load_file(folder / "shard.safetensors")
        sums = {name.removeprefix("sum."): value for name, value in arrays.items() if name.startswith("sum.")}
        return Shard(
            folder,
            facts,
            ImportanceMatrix(sums, {name: arrays[f"count.{name}"] for name in sums}, facts.n_samples),
            {n.removeprefix(COLUMNS): value for n, value in arrays.items() if n.startswith(COLUMNS)},
            {name: arrays[f"keys.{name}"] for name in MODALITIES},
            {name: arrays[f"samples.{name}"] for name in MODALITIES},
            seen_batches(arrays),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{folder} contains a shard that cannot be read ({type(error).__name__}).", AGAIN) from None
