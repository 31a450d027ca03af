"""Compares what was written with the checkpoint in transformers: `verify --against` and `convert --check`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luq_gguf.core import machine
from luq_gguf.core.agreement import Agreement
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.checks import Check, CheckReport
from luq_gguf.core.errors import CalibrationError, CheckpointError, EvaluationError, PictureError, VerificationError
from luq_gguf.core.picture_geometry import LimitOptions
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import RunOptions, Sample
from luq_gguf.diagnostics import verify as verification
from luq_gguf.evaluation import drawn
from luq_gguf.evaluation.evaluate import mmproj_beside
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import datasets, hub_datasets, long_prompts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.llamacpp.gguf import reader, shards
from luq_gguf.reporting import agreement_text
from luq_gguf.run import vocabulary
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.memory import check_memory
from luq_gguf.run.pictures import open_geometry

N_SAMPLES = 2
_SOUND = "Convert it again from a sound checkpoint."
_CHARACTERS = 1000  # of a calibration text, as a prompt


def verify(
    target: Path,
    mmproj: Path | None,
    model: str,
    options: RunOptions = RunOptions(),
    reporter: Reporter = Reporter(),
) -> CheckReport:
    """Return all checks of a run folder or a file, and how far its predictions are from the checkpoint's `model` in
    transformers, unless something is wrong already. Raises children of InputError, and MemoryLimitError."""
    checkpoint = checkpoints.open_checkpoint(
        model, trust_remote_code=options.trust_remote_code, subfolder=options.subfolder
    )
    report = verification.verify(target, mmproj, options.threads)
    if not report.ok:
        reporter.info(f"not compared with {checkpoint.name}: a check has failed")
        return report
    run = next((RunFolder(f) for f in (target, target.parent) if (f / "run.json").is_file()), None)
    file, half = _files(target, mmproj, checkpoint, run)
    _check_same_vocabulary(file, checkpoint)
    agreement = compare(file, half, checkpoint, run, options, reporter)
    return CheckReport((*report.checks, *_checks(agreement)), agreement)


def check_written(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    run: RunFolder,
    options: RunOptions,
    reporter: Reporter,
) -> Agreement:
    """Return how far what a run has written is from its checkpoint. Raises VerificationError where a figure is not
    finite, and MemoryLimitError."""
    agreement = compare(file, mmproj, checkpoint, run, options, reporter)
    for check in _checks(agreement):
        if not check.ok:
            raise VerificationError(f"{check.name}: {check.found}.", check.hint)
    return agreement


def compare(
    file: Path,
    mmproj: Path | None,
    checkpoint: Checkpoint,
    run: RunFolder | None,
    options: RunOptions,
    reporter: Reporter,
) -> Agreement:
    """Compare on two samples of a run's calibration set where it is still there, else on drawn pictures. Raises
    MemoryLimitError, DeviceError, and what loading either model raises."""
    from luq_gguf.evaluation import against, reference_model  # import torch

    placement = reference_model.placement_for(options.device, checkpoint, machine.memory().available)
    dtype = str(placement.dtype).removeprefix("torch.")
    if placement.device.type == "cpu":
        check_memory(checkpoint, dtype, reporter)
    reporter.info(f"comparing {file.name} with {checkpoint.name} in transformers ({dtype})")
    with tempfile.TemporaryDirectory() as folder:
        samples, source = _samples(run, checkpoint, Path(folder))
        fitted, limits = _fitted(file, mmproj, checkpoint, samples, Path(folder), reporter)
        return against.compare(
            file,
            mmproj,
            checkpoint,
            samples,
            placement,
            fitted=fitted,
            image_tokens=limits.pair,
            source=source,
            threads=options.threads,
        )


def _fitted(
    file: Path, mmproj: Path | None, checkpoint: Checkpoint, samples: Sequence[Sample], folder: Path, reporter: Reporter
) -> tuple[dict[Path, Path], LimitOptions]:
    """Fitted pictures of those samples that need it, and the token limits that go with them."""
    pictures = list(dict.fromkeys(image for sample in samples for image in sample.images))
    if mmproj is None or not pictures:
        return {}, LimitOptions()
    try:
        with open_geometry(checkpoint, (file, mmproj)) as geometry:
            made = [geometry.write(picture, folder / f"fitted-{n}.png") for n, picture in enumerate(pictures)]
    except (CheckpointError, PictureError) as error:
        reporter.info(f"not compared with fitted pictures: {error.message}")
        return {}, LimitOptions()
    changed = [picture for picture in made if picture.is_changed]
    return {picture.picture: picture.written for picture in changed}, LimitOptions.of_all(
        [picture.needed for picture in changed]
    )


def _files(
    target: Path, mmproj: Path | None, checkpoint: Checkpoint, run: RunFolder | None
) -> tuple[Path, Path | None]:
    """What is compared of a target that passed all checks: a run's 16-bit file where it was kept, and its mmproj."""
    if run and target == run.path:
        outputs = [run.file(name) for stage in ("f16", "quantize") for name in run.outputs(stage)]
        halves = [run.file(name) for name in run.outputs("mmproj")]
        file, mmproj = next(path for path in outputs if path.is_file()), next(iter(halves), None)
    else:
        file = shards.files_of(target)[0]
        if reader.kind_of(reader.read(file)) != "model":
            raise EvaluationError(
                f"{target.name} is not a text model's file, so it predicts nothing.", "Give one, and --mmproj with it."
            )
    if not checkpoint.has_vision:
        return file, None
    return file, mmproj or mmproj_beside(file, None, f"{checkpoint.name} reads")


def _check_same_vocabulary(file: Path, checkpoint: Checkpoint) -> None:
    """Raise EvaluationError where a file's embeddings or tokens are not the checkpoint's."""
    info = shards.read(file)
    shape = next((t.shape for t in info.tensors if t.name == "token_embd.weight"), ())
    why = f"its embeddings are {' x '.join(map(str, shape))}, and the checkpoint has none of that shape"
    if tuple(reversed(shape)) in checkpoint.shapes.values():
        try:
            vocabulary.check(info, checkpoint, vocabulary.tokenizer_tokens(checkpoint))
            return
        except CheckpointError as error:
            why = error.message.rstrip(".")
    raise EvaluationError(
        f"{file.name} was not made from {checkpoint.name}: {why}.", "Give the checkpoint that the file was made from."
    )


def _samples(run: RunFolder | None, checkpoint: Checkpoint, folder: Path) -> tuple[list[Sample], str]:
    """Two samples and where they are from: with pictures, unless the checkpoint reads text only."""
    record = run.read().get("calibration") if run else None
    if run and isinstance(record, Mapping):
        samples = _of_calibration(record, checkpoint, run)
        if samples:
            return samples, f"on {len(samples)} samples of the calibration set"
    if not checkpoint.has_vision:
        return list(drawn.questions()), "on two questions"
    return list(drawn.samples(folder)), "on two drawn pictures"


def _of_calibration(record: Mapping[str, Any], checkpoint: Checkpoint, run: RunFolder) -> list[Sample]:
    """The first samples of the set that a run was calibrated with; none where it is no longer there. Of a set from the
    Hub, whose prompts are not kept, the pictures that are."""
    images, text = (source if isinstance(source := record.get(name), str) else None for name in ("images", "text"))
    if checkpoint.has_vision:
        text = None
        if images is None or hub_datasets.is_on_hub(images):
            pictures = sorted((run.work / "images").glob("*.png"))[:N_SAMPLES]
            return [Sample(datasets.FOLDER_PROMPT, (picture,)) for picture in pictures]
    elif (source := text or images) is None or hub_datasets.is_on_hub(source):
        return []
    else:
        images = None if text else images
    seed = record.get("seed")
    try:
        data = datasets.read_calibration(
            images,
            text,
            n_samples=N_SAMPLES,
            alpha=float(checkpoint.has_vision),
            seed=seed if isinstance(seed, int) else 0,
            cache=run.work / "images",
            check=PictureCheck(checkpoint) if checkpoint.has_vision else None,
        )
    except CalibrationError:
        return []
    return list(_prompts(long_prompts.cut(data, checkpoint)))


def _prompts(data: CalibrationData) -> tuple[Sample, ...]:
    if data.document is None:
        return data.multimodal or data.text
    pieces = [data.document[at * _CHARACTERS : (at + 1) * _CHARACTERS].strip() for at in range(N_SAMPLES)]
    return tuple(Sample(piece) for piece in pieces if piece)


def _checks(agreement: Agreement) -> list[Check]:
    name = f"{agreement.file}: against {agreement.checkpoint}"
    if not agreement.is_finite:
        return [Check.failed(name, "the predictions of one of them are not finite", _SOUND)]
    return [
        Check.passed(name, agreement_text.figures(agreement), agreement_text.hint(agreement)),
        Check.passed(f"{agreement.file}: prompt tokens", agreement_text.tokens(agreement)),
    ]
