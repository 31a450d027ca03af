"""Makes the pass: all batches of a share of the calibration set go through the reference model once.

Its state is saved now and then, so that an interrupted pass resumes where it stopped. State of another model,
calibration set or share is ignored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luq_gguf.calibration import batches as calibration_batches
from luq_gguf.calibration import resume
from luq_gguf.calibration.batches import Batch
from luq_gguf.calibration.hooks import CalibrationHooks
from luq_gguf.calibration.reservoir import MODALITIES, Reservoir
from luq_gguf.core import process_state
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.core.types import ImportanceMatrix, ShardSpec
from luq_gguf.hf import model as hf_model
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.decoder import decoder_layers, decoder_matrices
from luq_gguf.hf.devices import Placement, memory_errors

CAPACITY = 8192  # token vectors per layer and modality
SAVE_SECONDS = 30.0
STATE = 4  # what the saved state of an interrupted pass holds: other numbers are not read


@dataclass(frozen=True)
class PassResult:
    """What a finished pass leaves: sums, kept vectors, column energies (decoder.Matrices) by tensor, the weights'
    type."""

    matrix: ImportanceMatrix
    reservoir: Reservoir
    energies: dict[str, np.ndarray]
    dtype: torch.dtype


def pass_key(
    checkpoint: Checkpoint, calibration: CalibrationData, dtype: torch.dtype, share: ShardSpec = ShardSpec()
) -> str:
    """Return the key of saved state; `dtype` is that of the weights and of the kept vectors."""
    inputs = [checkpoint.fingerprint, calibration.sha256, calibration.n_text, calibration.seed, CAPACITY, STATE]
    return json.dumps([*inputs, str(dtype), str(share), *calibration.treatment], default=vars)


@contextmanager
def run_pass(
    checkpoint: Checkpoint,
    calibration: CalibrationData,
    sources: Mapping[str, MatrixSource],
    work: Path,
    *,
    placement: Placement,
    share: ShardSpec = ShardSpec(),
    on_load: Callable[[float], None] = lambda share: None,
    on_samples: Callable[[int, int], None],
) -> Iterator[PassResult]:
    """Make the pass, or the rest of it; the reservoir can be read inside this context, after the model is freed."""
    work.mkdir(parents=True, exist_ok=True)
    key, path = pass_key(checkpoint, calibration, placement.dtype, share), work / "pass.npz"
    state = resume.load(path, key)
    if state is None:
        for name in MODALITIES:
            (work / f"reservoir-{name}.bin").unlink(missing_ok=True)
    on_load(0.0)
    model, processor = hf_model.load_reference(checkpoint, placement)
    on_load(1.0)
    config: Any = model.config
    width = config.get_text_config().hidden_size
    dtype = next(model.parameters()).dtype
    reservoir = Reservoir(work, CAPACITY, len(decoder_layers(model)), width, dtype, calibration.seed)
    try:
        hooks = CalibrationHooks(model, sources, reservoir)
        batches = _Batches(model, processor, calibration, share)
        with memory_errors(placement):
            matrix = _pass(batches, hooks, reservoir, state, lambda arrays: resume.save(path, key, arrays), on_samples)
        energies = decoder_matrices(model, sources).column_energies()
        del model, hooks, batches
        yield PassResult(matrix, reservoir, energies, dtype)
    finally:
        reservoir.close()


@dataclass(frozen=True)
class _Batches:
    model: torch.nn.Module
    processor: object
    calibration: CalibrationData
    share: ShardSpec

    def after(self, start: int) -> Iterator[Batch]:
        return calibration_batches.batches(self.model, self.processor, self.calibration, start, self.share)

    @property
    def n_samples(self) -> int:
        """Of the share, about."""
        return round((len(self.calibration.multimodal) + self.calibration.n_text) / self.share.count)


def _pass(
    batches: _Batches,
    hooks: CalibrationHooks,
    reservoir: Reservoir,
    state: dict[str, np.ndarray] | None,
    save: Callable[[dict[str, np.ndarray]], None],
    on_samples: Callable[[int, int], None],
) -> ImportanceMatrix:
    start, done = _restore(hooks, reservoir, state) if state is not None else (0, 0)
    total = batches.n_samples
    last_saved, batch_number = time.monotonic(), start
    on_samples(done, total)
    with torch.inference_mode(), hooks.attached():
        remaining = batches.after(start)
        while batch := _next_passed(batches.model, hooks, remaining):
            done += len(batch.ids)
            batch_number += 1
            on_samples(done, max(done, total))
            if time.monotonic() - last_saved > SAVE_SECONDS:
                save(_state(hooks, reservoir, batch_number, done))
                last_saved = time.monotonic()
    save(_state(hooks, reservoir, batch_number, done))
    on_samples(done, done)
    return hooks.importance(done)


def _next_passed(model: torch.nn.Module, hooks: CalibrationHooks, remaining: Iterator[Batch]) -> Batch | None:
    """Make the next batch and its forward pass, while no other thread loads a model; None after the last."""
    with process_state.TORCH:
        batch = next(remaining, None)
        if batch:
            hooks.expect(batch.valid, batch.ids, multimodal=batch.multimodal)
            forward(model, batch)
    return batch


def forward(model: torch.nn.Module, batch: Batch) -> None:
    """Run one forward pass without the head, whose logits over a large vocabulary are not needed."""
    model.base_model(**batch.inputs, use_cache=False)  # type: ignore[operator]


def seen_arrays(reservoir: Reservoir) -> dict[str, np.ndarray]:
    """Return the contents of `TokenSample.seen`, flat: int arrays with one number per sample, and which of the share's
    batches it was in."""
    rows = [
        (number, multimodal, sample, length)
        for number, (multimodal, ids, lengths) in enumerate(reservoir.seen)
        for sample, length in zip(ids, lengths, strict=True)
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T.copy()
    return dict(zip(("seen.batch", "seen.multimodal", "seen.sample", "seen.tokens"), columns, strict=True))


def seen_batches(arrays: dict[str, np.ndarray]) -> list[tuple[bool, tuple[int, ...], tuple[int, ...]]]:
    """Return the contents of `TokenSample.seen` from these arrays."""
    names = ("seen.batch", "seen.multimodal", "seen.sample", "seen.tokens")
    number, multimodal, sample, tokens = (arrays[name] for name in names)
    batches = []
    for batch in range(int(number.max()) + 1 if len(number) else 0):
        rows = np.flatnonzero(number == batch)
        batches.append((bool(multimodal[rows[0]]), tuple(sample[rows].tolist()), tuple(tokens[rows].tolist())))
    return batches


def _state(hooks: CalibrationHooks, reservoir: Reservoir, batch: int, samples: int) -> dict[str, np.ndarray]:
    matrix = hooks.importance(samples)
    reservoir.flush()
    return (
        {f"sum.{name}": value for name, value in matrix.in_sum2.items()}
        | {f"count.{name}": value for name, value in matrix.counts.items()}
        | {f"keys.{name}": value for name, value in reservoir.keys.items()}
        | {f"samples.{name}": value for name, value in reservoir.samples.items()}
        | seen_arrays(reservoir)
        | {"batch": np.array(batch), "samples": np.array(samples)}
    )


def _restore(hooks: CalibrationHooks, reservoir: Reservoir, state: dict[str, np.ndarray]) -> tuple[int, int]:
    """Batches and samples done."""
    sums = {name.removeprefix("sum."): value for name, value in state.items() if name.startswith("sum.")}
    hooks.restore(ImportanceMatrix(sums, {name: state[f"count.{name}"] for name in sums}))
    for name in MODALITIES:
        reservoir.keys[name][:] = state[f"keys.{name}"]
        reservoir.samples[name][:] = state[f"samples.{name}"]
    reservoir.seen = seen_batches(state)
    return int(state["batch"]), int(state["samples"])
