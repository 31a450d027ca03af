"""Runs the profile stage: it reads the calibration set, writes files of the run folder, and is skipped while its
inputs are unchanged. Nothing here prints: the `Reporter` is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luq_gguf.calibration import pixels
from luq_gguf.core import atomic, paths
from luq_gguf.core.calibration_set import DEPLOYED, CalibrationData, CalibrationSet
from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.json_value import given
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Profile
from luq_gguf.hf import datasets, hub_datasets, long_prompts, prompts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.llamacpp.gguf import header_only, imatrix
from luq_gguf.method import importance
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.memory import check_memory
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

if TYPE_CHECKING:
    from luq_gguf.calibration.profiler import ProfileResult, Progress
    from luq_gguf.calibration.shards import Shard
    from luq_gguf.hf.devices import Placement

PROFILE_FILES = ("profile.json", "profile.safetensors", header_only.IMATRIX_NAME)
LARGE = 2  # times an equal share of all tokens, and a tenth of them: a sample of which that is told
PROFILE_STATE = ("pass.npz", "entropies.npz", "reservoir-multimodal.bin", "reservoir-text.bin")


def set_for(spec: ModelSpec, calibration: CalibrationSet, reporter: Reporter = Reporter()) -> CalibrationSet:
    """Return the calibration set as the model can take it: without a vision half it reads text only. Raises
    CalibrationError where the set has none."""
    if spec.checkpoint.has_vision:
        return calibration
    if calibration.images and not calibration.text and Path(calibration.images).expanduser().is_dir():
        raise CalibrationError(
            f"{spec.checkpoint.name} reads text only, and {calibration.images} is a folder of images.",
            "Give --calib-text a text file, or --calib a .jsonl file with prompts.",
        )
    reporter.info(f"{spec.checkpoint.name} reads text only: alpha is 0")
    return calibration.for_text_only()


def _record(calibration: CalibrationSet) -> dict[str, object]:
    """What run.json says about the set, so that samples of it are found again: local sets by their absolute paths."""
    images, text = (paths.absolute_model(source) if source else None for source in calibration.sources)
    asked = {"alpha": calibration.alpha, "samples": calibration.samples, "seed": calibration.seed}
    return {"images": images, "text": text, **asked, "pixels": calibration.pixels}


def profile_key(run: RunFolder, spec: ModelSpec, calibration: CalibrationSet) -> str:
    """Return the key of the profile stage, for a set as `set_for` returns it. Raises CalibrationError.

    Of local sets it has what is drawn of them: pictures, prompts, answers and text, wherever they lie. A set of the Hub
    is known by its id: a run stays with the commit that it began with, and with the images as they were calibrated.
    """
    asked = calibration.samples, calibration.alpha, calibration.seed
    drawn, beyond = _drawn(run, spec.checkpoint, calibration)
    shown = pixels.key(DEPLOYED) if calibration.pixels == DEPLOYED else pixels.key(*beyond) if beyond else []
    return hash_of(spec.checkpoint.fingerprint, *asked, drawn, *shown)


def _drawn(
    run: RunFolder, checkpoint: Checkpoint, calibration: CalibrationSet
) -> tuple[list[object], list[tuple[int, int]]]:
    """What is drawn from each of the sets, and their names, which imatrix.gguf has; and the sizes of local images that
    are too large for llama.cpp."""
    images, text = calibration.sources
    n_multimodal = round(calibration.alpha * calibration.samples)
    n_text = calibration.samples - n_multimodal
    if images and text is None:  # text-only samples are of the same set
        parts = [(images, calibration)]
    else:
        only_images = replace(calibration, text=None, alpha=1.0, samples=n_multimodal)
        only_text = replace(calibration, images=None, alpha=0.0, samples=n_text)
        parts = [(images or datasets.DEFAULT_IMAGES, only_images)] * (n_multimodal > 0)
        parts += [(text or datasets.DEFAULT_TEXT, only_text)] * (n_text > 0)
    drawn: list[object] = []
    beyond: list[tuple[int, int]] = []
    for source, part in parts:
        data = None if hub_datasets.is_on_hub(source) else read_data(run, part, checkpoint)
        drawn.append([datasets.source_name(source), data and data.sha256])
        beyond += pixels.sizes_beyond_limit(data, checkpoint) if data else []
    return drawn, beyond


def read_data(run: RunFolder, calibration: CalibrationSet, checkpoint: Checkpoint) -> CalibrationData:
    """Read the data of a calibration set, without images that the checkpoint's processor rejects, long samples cut.
    Raises CalibrationError, and CheckpointError where the checkpoint cannot take several pictures or turns."""
    data = datasets.read_calibration(
        *calibration.sources,
        n_samples=calibration.samples,
        alpha=calibration.alpha,
        seed=calibration.seed,
        cache=run.work / "images",
        check=PictureCheck(checkpoint),
    )
    data = long_prompts.cut(data, checkpoint)
    prompts.check_samples(checkpoint, (*data.multimodal, *data.text), data.image_source or "")
    return data


def with_pixels(session: Session, calibration: CalibrationSet, data: CalibrationData) -> CalibrationData:
    """Return the data with what the processor is shown in place of their images, and tell the reporter once where that
    is not what was asked for, or not the images as they are."""
    checkpoint, reporter = session.spec.checkpoint, session.reporter
    shown = pixels.shown(data, checkpoint, calibration.pixels) if data.multimodal else data
    if data.multimodal and shown.pixels != calibration.pixels:
        reporter.info(
            f"images are calibrated as the processor of {checkpoint.name} makes them: it cannot be shown what "
            "llama.cpp makes of them"
        )
    if shown.n_limited:
        reporter.info(
            f"{shown.n_limited} of {len(data.multimodal)} images have more tokens than llama.cpp's limit of "
            f"{shown.image_limit:,}: they are calibrated at that limit"
        )
    return shown


def tell_skipped(data: CalibrationData, reporter: Reporter) -> None:
    """Tell the reporter which images could not be read, or are rejected by the processor; of a set that has none; and
    how many samples were cut."""
    if data.n_cut:
        n = len(data.multimodal) + len(data.text)
        reporter.info(f"{data.n_cut} of {n} samples have more than {data.cut_at} tokens of text: they are cut there")
    if data.without_images:
        reporter.info(f"{data.image_source} has no images: alpha is 0")
    if data.skipped:
        names = ", ".join(data.skipped[:5])
        reporter.info(f"skipped {len(data.skipped)} images that cannot be read, or that the processor rejects: {names}")


def place(session: Session, copies: int = 1) -> Placement:
    """Return where so many processes here make a pass; on the CPU, check that there is enough memory.

    Raises DeviceError and MemoryLimitError.
    """
    from luq_gguf.hf import devices

    checkpoint, reporter = session.spec.checkpoint, session.reporter
    placement = devices.choose_device(session.options.device, checkpoint, reporter.info)
    if placement.device.type == "cpu":
        check_memory(checkpoint, str(placement.dtype).removeprefix("torch."), reporter, copies=copies)
    return placement


def adopt_merged(run: RunFolder, spec: ModelSpec, calibration: CalibrationSet, key: str) -> None:
    """Give a merged profile the key that this machine's stage has, where it is from the same model and data.

    A data set may have another name on the machines that the shards come from. Shards of versions that did not record
    the model's contents are not known again: a fine-tune has the same config and shapes.
    """
    merged = run.read().get("merged")
    stages = run.read()["stages"]
    if not merged or stages.get("profile", {}).get("key") == key or run.changed("profile"):
        return
    read = read_data(run, calibration, spec.checkpoint)
    limited = len(pixels.sizes_beyond_limit(read, spec.checkpoint)) if calibration.pixels != DEPLOYED else 0
    here = merged_facts(
        spec.checkpoint.fingerprint, read.sha256, read.seed, read.alpha, read.n_text, calibration.pixels, limited
    )
    if here == {name: merged.get(name) for name in here}:
        run.update(stages=stages | {"profile": stages["profile"] | {"key": key}})


def merged_facts(
    fingerprint: str | None, sha256: str, seed: int, alpha: float, n_text: int, pixels: str | None, n_limited: int
) -> dict[str, object]:
    """Return what run.json says about a merged profile, which `adopt_merged` compares."""
    facts: dict[str, object] = {"model_contents": fingerprint, "sha256": sha256, "seed": seed, "alpha": alpha}
    is_deployed = pixels == DEPLOYED or None  # so that what earlier versions wrote is the same
    return facts | {"n_text": n_text, "deployed_pixels": is_deployed, "limited_images": n_limited or None}


def make_profile(session: Session, calibration: CalibrationSet) -> Profile:
    """Run the profile stage: write profile.json, profile.safetensors and imatrix.gguf."""
    run, spec, reporter = session.run, session.spec, session.reporter
    calibration = set_for(spec, calibration, reporter)
    run.update(calibration=_record(calibration))
    key = profile_key(run, spec, calibration)
    adopt_merged(run, spec, calibration, key)

    def make() -> None:
        from luq_gguf.calibration import profiler

        placement = place(session)
        data = read_data(run, calibration, spec.checkpoint)
        tell_skipped(data, reporter)
        data = with_pixels(session, calibration, data)
        result = profiler.profile(
            spec.checkpoint, data, spec.matrices, run.work, placement=placement, progress=_progress(reporter)
        )
        if run.read().get("merged"):
            run.update(merged=None)
        write_profile(run, result, reporter)

    run.run_stage("profile", key, PROFILE_FILES, make)
    return _finished_profile(run)


def make_merged(run: RunFolder, shards: Sequence[Shard], reporter: Reporter = Reporter()) -> Profile:
    """Run the profile stage on shards that `merge.check` found to be one whole pass: write the same files."""

    def make() -> None:
        from luq_gguf.calibration import merge, profiler

        facts = shards[0].facts
        calibration = facts.calibration
        result = profiler.finalize_profile(
            merge.profile_inputs(shards),
            calibration.seed,
            run.work,
            merge.key_of(shards),
            progress=_progress(reporter),
        )
        identity = {"model_sha256": facts.model_sha256} | merged_facts(
            given(facts.model_contents),
            calibration.sha256,
            calibration.seed,
            calibration.alpha,
            facts.n_text_asked,
            given(calibration.pixels),
            given(calibration.limited_images) or 0,
        )
        run.update(merged={"shards": len(shards)} | identity)
        write_profile(run, result, reporter)

    run.run_stage("profile", shards[0].facts.request_key, PROFILE_FILES, make)
    return _finished_profile(run)


def on_load(reporter: Reporter) -> Callable[[float], None]:
    """Return what tells the reporter how much of the reference model is loaded: the first minutes of a large one."""
    return lambda share: reporter.progress("load reference model", share, 1.0)


def _progress(reporter: Reporter) -> Progress:
    from luq_gguf.calibration import profiler

    return profiler.Progress(
        on_load(reporter),
        lambda done, total: reporter.progress("calibration samples", done, total),
        lambda done, total: reporter.progress("layer entropies", done, total),
    )


def write_profile(run: RunFolder, result: ProfileResult, reporter: Reporter = Reporter()) -> None:
    """Write a profile's three files. Columns that were never active get a little importance (`importance.floored`),
    and the reporter is told of them."""
    from safetensors.numpy import save_file

    profile, matrix, arrays = result
    never_active = importance.never_active(matrix)
    if never_active.sentence:
        reporter.info(never_active.sentence)
        profile = replace(profile, calibration=replace(profile.calibration, never_active=never_active))
    largest = given(profile.calibration.largest_sample_share) or 0.0
    if largest > max(0.1, LARGE / max(1, matrix.n_samples)):
        reporter.info(f"the longest of {matrix.n_samples} samples has {largest:.0%} of all tokens of the calibration")
    with atomic.whole(run.file(header_only.IMATRIX_NAME)) as part:
        imatrix.write(part, importance.floored(matrix), list(profile.calibration.sources), 512)
    with atomic.whole(run.file("profile.safetensors")) as part:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # it writes memory as it is
        save_file(contiguous, part)
        part.chmod(run.file("run.json").stat().st_mode & 0o777)  # the library makes it private
    serialization.write_json(run.file("profile.json"), profile.to_json())


def _finished_profile(run: RunFolder) -> Profile:
    for name in PROFILE_STATE:  # only now: until the stage is recorded, its state saves hours
        (run.work / name).unlink(missing_ok=True)
    return serialization.read_profile(run.file("profile.json"))
