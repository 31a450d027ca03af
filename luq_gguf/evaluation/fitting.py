"""Fits the pictures of questions, so that a file is asked about what the checkpoint's own processor makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from msgspec import UNSET

from luq_gguf.core.errors import EvaluationError, PictureError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.images import content_key
from luq_gguf.core.measurements import EvalConditions
from luq_gguf.core.picture_geometry import LimitOptions
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import EvalData
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.llamacpp import tools
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.pictures import open_geometry, read_picture, run_checkpoint

HOW = 1  # in what way pictures are fitted: what was written in other ways is not read


@dataclass(frozen=True)
class FittedData:
    """Questions with fitted pictures, and the token limits that libmtmd needs to take them as they are. `is_changed`:
    some of them are not what libmtmd would have made of the pictures anyway."""

    data: EvalData
    limits: LimitOptions
    is_changed: bool

    def of(self, target: EvalTarget) -> EvalTarget:
        """Return a file as it takes the pictures."""
        return replace(target, image_tokens=self.limits.pair)

    def told(self, conditions: EvalConditions) -> EvalConditions:
        """Return the conditions of a measurement with what was done to the pictures."""
        least, most = (UNSET if number is None else number for number in self.limits.pair)
        return replace(conditions, fit_images=True, image_min_tokens=least, image_max_tokens=most)


def checkpoint_of(file: Path, run: RunFolder | None) -> Checkpoint:
    """Open the checkpoint of a file in its run folder. Raises EvaluationError for other files, and what opening it
    raises."""
    if run is None:
        raise EvaluationError(
            f"{file.name} is not in a run folder, so the processor to fit pictures for is not known.",
            "Give a file in its run folder, or fit the pictures with luq-gguf fit --model CHECKPOINT.",
        )
    return run_checkpoint(run)


def fit(
    data: EvalData,
    checkpoint: Checkpoint,
    model: Path,
    mmproj: Path | None,
    folder: Path,
    reporter: Reporter = Reporter(),
) -> FittedData:
    """Write the pictures of all questions, fitted for a checkpoint's processor, into `folder`, unless they are there.
    `data.sha256` stays that of the pictures as they were. Raises EvaluationError where there is no picture, or one that
    cannot be fitted."""
    pictures = list(dict.fromkeys(image for sample in data.samples for image in sample.images))
    if not pictures or mmproj is None:
        raise EvaluationError("There is no picture to fit in the data.", "Leave out --fit-images.")
    key = hash_of(HOW, PictureCheck(checkpoint).key, version("pillow"), tools.identity())
    places: dict[Path, Path] = {}
    needed: list[LimitOptions] = []
    is_changed = False
    with open_geometry(checkpoint, (model, mmproj)) as geometry:
        for number, picture in enumerate(pictures):
            reporter.progress("fitting pictures", number, len(pictures))
            place = folder / key[:16] / f"{hash_of(content_key(picture))[:32]}.png"
            try:
                if not place.exists():
                    geometry.write(picture, place)
                size = read_picture(picture).size
                needed.append(geometry.needed(size))
                is_changed |= geometry.changes(size)
            except PictureError as error:
                raise EvaluationError(error.message, error.hint) from None
            places[picture] = place
        reporter.progress("fitting pictures", len(pictures), len(pictures))
    samples = tuple(replace(sample, images=tuple(places[image] for image in sample.images)) for sample in data.samples)
    asked = hash_of(data.asked_sha256, key)
    return FittedData(replace(data, samples=samples, asked_sha256=asked), LimitOptions.of_all(needed), is_changed)
