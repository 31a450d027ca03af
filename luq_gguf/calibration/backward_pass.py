"""Makes the backward pass: samples of the calibration set go through the reference model and back, layer by layer.

What is kept are sums, which are saved now and then, so that an interrupted pass resumes where it stopped. State of
another model, other samples or other types is ignored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from luq_gguf.calibration import batches as calibration_batches
from luq_gguf.calibration import resume
from luq_gguf.calibration.forward_pass import pass_key
from luq_gguf.calibration.gradients import DrawnGradients
from luq_gguf.calibration.slopes import Slopes
from luq_gguf.core import process_state
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.fisher import ForetoldKlds
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.hf import model as hf_model
from luq_gguf.hf import sight
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement, memory_errors
from luq_gguf.llamacpp.sampled_rows import SampledRows
from luq_gguf.method import fisher

DRAWS = 2  # directions of the logits after every token: as many more samples
SAMPLES = 32  # with DRAWS, a prediction's own error is a fifth of it: it is off from what is measured by more
CHUNK = 256  # tokens of a piece of text: what a prediction is off by follows from how many sequences there are
SAVE_SECONDS = 30.0
STATE, STATE_FILE = 1, "slopes.npz"  # what the saved state holds: other numbers are not read


@dataclass(frozen=True)
class BackwardProgress:
    """Callbacks: what share of the model is loaded; done and total of the samples."""

    on_load: Callable[[float], None] = lambda share: None
    on_samples: Callable[[int, int], None] = lambda done, total: None


def scored_samples(calibration: CalibrationData) -> CalibrationData:
    """Return what of a calibration set is scored, the first SAMPLES: with images where there are any, as files of a
    model that sees are measured with images; else of its texts."""
    if not calibration.multimodal:
        return replace(calibration, text=calibration.text[:SAMPLES], n_text=min(calibration.n_text, SAMPLES))
    return replace(calibration, multimodal=calibration.multimodal[:SAMPLES], text=(), document=None, n_text=0)


def foretell(
    checkpoint: Checkpoint,
    calibration: CalibrationData,
    sources: Mapping[str, MatrixSource],
    names: Sequence[str],
    rows: Callable[[str], SampledRows],
    work: Path,
    *,
    placement: Placement,
    made_from: str,
    progress: BackwardProgress = BackwardProgress(),
) -> ForetoldKlds:
    """Return what types cost the named matrices, of which `rows` reads sampled rows. `work` keeps the state of an
    interrupted pass; `made_from` is the key of these rows.

    Raises CheckpointError where the model cannot be walked backwards (`DrawnGradients`), and CalibrationError where
    what comes out is not finite.
    """
    scored = scored_samples(calibration)
    key = hash_of(pass_key(checkpoint, scored, placement.dtype), made_from, DRAWS, SAMPLES, CHUNK, STATE)
    path = work / STATE_FILE
    state = resume.load(path, key) or {}
    progress.on_load(0.0)
    model, processor = hf_model.load_reference(checkpoint, placement)
    progress.on_load(1.0)
    total = len(scored.multimodal) + scored.n_text
    with memory_errors(placement), process_state.TORCH:
        gradients = DrawnGradients(model, DRAWS, scored.seed, sight.image_ids(model, processor))
        slopes = Slopes(model, sources, rows, names)
        slopes.squares |= {name: state[name] for name in names if name in state}
    n_batches, n_samples, n_positions = (int(n) for n in state.get("counts", np.zeros(3, np.int64)))
    last_saved = time.monotonic()

    def save() -> None:
        resume.save(path, key, slopes.squares | {"counts": np.array([n_batches, n_samples, n_positions])})

    progress.on_samples(n_samples, total)
    remaining = calibration_batches.batches(model, processor, scored, n_batches, chunk=CHUNK)
    while True:
        with memory_errors(placement), process_state.TORCH:
            batch = next(remaining, None)
            if batch is None:
                break
            slopes.add(gradients.of(batch))
            n_positions += int(gradients.scored(batch).sum())
        n_batches, n_samples = n_batches + 1, n_samples + len(batch.ids)
        progress.on_samples(n_samples, max(n_samples, total))
        if time.monotonic() - last_saved > SAVE_SECONDS:
            save()
            last_saved = time.monotonic()
    save()
    progress.on_samples(n_samples, n_samples)
    klds: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for name in names:
        of = rows(name)
        errors[name] = dict(zip(of.types, map(float, of.errors), strict=True))
        if name in slopes.squares:
            values = fisher.mean_kld(slopes.squares[name], DRAWS, n_positions)
            klds[name] = dict(zip(of.types, map(float, values), strict=True))
    if not all(np.isfinite(value) for of_types in klds.values() for value in of_types.values()):
        raise CalibrationError(
            f"Gradients of {checkpoint.name} are not finite in {placement.dtype}.",
            "Check that the checkpoint is intact. Another --device may compute in another precision.",
        )
    unseen = tuple(name for name in names if name not in klds)
    return ForetoldKlds(
        klds, errors, unseen, n_samples, n_positions, bool(scored.multimodal), DRAWS, scored.seed
    )  # fmt: skip
