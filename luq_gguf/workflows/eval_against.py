"""`eval --against`: the same questions to the checkpoint in transformers, to its 16-bit file with pictures as they are
and fitted, and to the file that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import UNSET

from luq_gguf.core import machine
from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.measurements import (
    AS_IS,
    FILE,
    FITTED,
    REFERENCE,
    WIDE,
    ComparedModel,
    Difference,
    ReferenceComparison,
)
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import EvalData, RunOptions
from luq_gguf.evaluation import fitting, scoring, splits
from luq_gguf.evaluation.fitting import FittedData
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.method.metrics import intervals
from luq_gguf.run.memory import check_memory


@dataclass(frozen=True)
class AskedFile:
    """A file and the questions as it sees them: `pictures` is AS_IS or FITTED, None where there are none."""

    name: str
    target: EvalTarget
    data: EvalData
    pictures: str | None


def files_of(
    checkpoint: Checkpoint,
    file: EvalTarget,
    reference: Path | None,
    data: EvalData,
    fitted: FittedData | None,
    work: Path,
    reporter: Reporter,
) -> list[AskedFile]:
    """Return what is compared with transformers: the 16-bit file, where there is one, with pictures as they are and,
    where that makes a difference, fitted; and the file as it is measured, with the pictures `fitted` if given."""
    is_asked = fitted is not None
    if fitted is None and reference and file.mmproj:
        try:
            fitted = fitting.fit(data, checkpoint, file.model, file.mmproj, work / "fitted", reporter)
        except EvaluationError as error:
            reporter.info(f"not compared with fitted pictures: {error.message}")
    way = AS_IS if file.mmproj else None
    listed = []
    if reference:
        wide = replace(file, model=reference)
        listed.append(AskedFile(WIDE, wide, data, way))
        if fitted and fitted.is_changed:
            listed.append(AskedFile(WIDE, fitted.of(wide), fitted.data, FITTED))
    if fitted and is_asked:
        return [*listed, AskedFile(FILE, fitted.of(file), fitted.data, FITTED)]
    return [*listed, AskedFile(FILE, file, data, way)]


def compare(
    checkpoint: Checkpoint,
    files: Sequence[AskedFile],
    data: EvalData,
    metric: str,
    work: Path,
    options: RunOptions,
    reporter: Reporter,
) -> ReferenceComparison:
    """Ask the checkpoint in transformers and the files. Raises EvaluationError, MemoryLimitError, DeviceError, and what
    loading either side raises."""
    if not data.samples:
        raise EvaluationError(
            f"{checkpoint.name} is asked questions, and there are none.", "Give --data SET with --against."
        )
    from luq_gguf.evaluation import reference_eval, reference_model  # import torch

    placement = reference_model.placement_for(options.device, checkpoint, machine.memory().available)
    dtype = str(placement.dtype).removeprefix("torch.")
    if placement.device.type == "cpu":
        check_memory(checkpoint, dtype, reporter)
    reporter.info(f"asking {checkpoint.name} in transformers ({dtype}) the same {len(data.samples)} questions")
    data = replace(data, chunks=())
    told = partial(reporter.progress, f"{checkpoint.name} in transformers")
    target = files[0].target
    reference = reference_eval.measure_reference_model(checkpoint, placement, target, data, work, told)
    chosen = scoring.choose_metrics(metric, data.samples)
    answers = reference_eval.answers(reference, data)
    scores = scoring.scores(answers, data, chosen)
    accuracy = None if scores is None else intervals.accuracy(scores)
    models = [ComparedModel(name=REFERENCE, accuracy=accuracy, splits=splits.by_split(data, chosen, scores))]
    for file in files:
        told = partial(reporter.progress, " ".join(filter(None, (file.target.model.name, _way(file)))))
        asked = replace(file.data, chunks=())
        cases = reference_eval.compare(file.target, asked, reference, data, work, told)
        theirs = scoring.scores([case.answer for case in cases], data, chosen)
        models.append(
            ComparedModel(
                name=file.name,
                file=file.target.model.name,
                pictures=file.pictures,
                accuracy=None if theirs is None else intervals.accuracy(theirs),
                accuracy_change=_change(scores, theirs),
                kld=intervals.mean_over_positions([case.kld for case in cases]),
                same_top=float(np.concatenate([case.same_top for case in cases]).mean()),
                same_answers=float(np.mean([a == case.answer for a, case in zip(answers, cases, strict=True)])),
                splits=splits.by_split(data, chosen, theirs, scores),
            )
        )
    name = scoring.metric_name(chosen)
    different = reference.different_tokens or UNSET
    return ReferenceComparison(
        checkpoint.name, dtype, len(data.samples), name, target.max_tokens, tuple(models), different
    )


def _way(file: AskedFile) -> str:
    return "with fitted pictures" if file.pictures == FITTED else ""


def _change(before: np.ndarray | None, after: np.ndarray | None) -> Difference | None:
    return None if before is None or after is None else intervals.paired_difference(before, after)
