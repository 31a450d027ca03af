"""Runs the profile stage: it reads the calibration set, writes files of the run folder, and is skipped while its
inputs are unchanged. Nothing here prints: the `Reporter` is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from luq_gguf.core import atomic
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import CalibrationSet, Profile
from luq_gguf.hf import datasets
from luq_gguf.llamacpp.gguf import header_only, imatrix
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import ModelSpec, check_memory
from luq_gguf.run.session import Session

if TYPE_CHECKING:
    from luq_gguf.calibration.profiler import ProfileResult, Progress
    from luq_gguf.calibration.shards import Shard
    from luq_gguf.hf.devices import Placement

PROFILE_FILES = ("profile.json", "profile.safetensors", header_only.IMATRIX_NAME)
PROFILE_STATE = ("pass.npz", "entropies.npz", "reservoir-multimodal.bin", "reservoir-text.bin")


@dataclass(frozen=True)
class CalibrationRequest:
    """What the user asked to calibrate with."""

    images: str | None = None
    text: str | None = None
    alpha: float = 0.5
    n_samples: int = 128
    seed: int = 0

    def for_text_only(self) -> CalibrationRequest:
        return CalibrationRequest(None, self.text, 0.0, self.n_samples, self.seed)


def request_for(spec: ModelSpec, request: CalibrationRequest, reporter: Reporter = Reporter()) -> CalibrationRequest:
    """Return the request as the model can follow it: without a vision half it reads text only."""
    if spec.checkpoint.has_vision:
        return request
    reporter.info(f"{spec.checkpoint.name} reads text only: alpha is 0")
    return request.for_text_only()


def profile_key(run: RunFolder, spec: ModelSpec, request: CalibrationRequest) -> str:
    """Return the key of the profile stage, for a request as `request_for` returns it. Raises CalibrationError.

    Of local sets it has what is drawn of them: pictures, prompts, answers and text, wherever they lie. A set of the Hub
    is known by its id: a run stays with the commit that it began with.
    """
    return hash_of(spec.checkpoint.fingerprint, request.n_samples, request.alpha, request.seed, _drawn(run, request))


def _drawn(run: RunFolder, request: CalibrationRequest) -> list[object]:
    """What a request draws from each of its sets, and their names, which imatrix.gguf has."""
    n_multimodal = round(request.alpha * request.n_samples)
    n_text = request.n_samples - n_multimodal
    if request.images and request.text is None:  # text-only samples are of the same set
        parts = [(request.images, request)]
    else:
        only_images = replace(request, text=None, alpha=1.0, n_samples=n_multimodal)
        only_text = replace(request, images=None, alpha=0.0, n_samples=n_text)
        parts = [(request.images or datasets.DEFAULT_IMAGES, only_images)] * (n_multimodal > 0)
        parts += [(request.text or datasets.DEFAULT_TEXT, only_text)] * (n_text > 0)
    drawn: list[object] = []
    for source, part in parts:
        on_hub = datasets.is_on_hub(source)
        drawn.append([datasets.source_name(source), None if on_hub else read_request(run, part).sha256])
    return drawn


def read_request(run: RunFolder, request: CalibrationRequest) -> CalibrationSet:
    """Read the calibration set of a request. Raises CalibrationError."""
    return datasets.read_calibration(
        request.images,
        request.text,
        n_samples=request.n_samples,
        alpha=request.alpha,
        seed=request.seed,
        cache=run.work / "images",
    )


def tell_skipped(calibration: CalibrationSet, reporter: Reporter) -> None:
    """Tell the reporter which images could not be read."""
    if calibration.skipped:
        reporter.info(f"skipped {len(calibration.skipped)} unreadable images: {', '.join(calibration.skipped[:5])}")


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


def adopt_merged(run: RunFolder, spec: ModelSpec, request: CalibrationRequest, key: str) -> None:
    """Give a merged profile the key that this machine's stage has, where it is from the same model and data.

    A data set may have another name on the machines that the shards come from. Shards of versions that did not record
    the model's contents are not known again: a fine-tune has the same config and shapes.
    """
    merged = run.read().get("merged")
    stages = run.read()["stages"]
    if not merged or stages.get("profile", {}).get("key") == key or run.changed("profile"):
        return
    read = read_request(run, request)
    here = merged_facts(spec.checkpoint.fingerprint, read.sha256, read.seed, read.alpha, read.n_text)
    if here == {name: merged.get(name) for name in here}:
        run.update(stages=stages | {"profile": stages["profile"] | {"key": key}})


def merged_facts(fingerprint: str | None, sha256: str, seed: int, alpha: float, n_text: int) -> dict[str, object]:
    """Return what run.json says about a merged profile, which `adopt_merged` compares."""
    return {"model_contents": fingerprint, "sha256": sha256, "seed": seed, "alpha": alpha, "n_text": n_text}


def make_profile(session: Session, request: CalibrationRequest) -> Profile:
    """Run the profile stage: write profile.json, profile.safetensors and imatrix.gguf."""
    run, spec, reporter = session.run, session.spec, session.reporter
    request = request_for(spec, request, reporter)
    key = profile_key(run, spec, request)
    adopt_merged(run, spec, request, key)

    def make() -> None:
        from luq_gguf.calibration import profiler

        placement = place(session)
        calibration = read_request(run, request)
        tell_skipped(calibration, reporter)
        result = profiler.profile(
            spec.checkpoint, calibration, spec.names, run.work, placement=placement, progress=_progress(reporter)
        )
        if run.read().get("merged"):
            run.update(merged=None)
        _write_profile(run, result)

    run.run_stage("profile", key, PROFILE_FILES, make)
    return _finished_profile(run)


def make_merged(run: RunFolder, shards: Sequence[Shard], reporter: Reporter = Reporter()) -> Profile:
    """Run the profile stage on shards that `merge.check` found to be one whole pass: write the same files."""

    def make() -> None:
        from luq_gguf.calibration import merge, profiler

        facts = shards[0].facts
        calibration = facts["calibration"]
        result = profiler.finalize_profile(
            merge.profile_inputs(shards),
            calibration["seed"],
            run.work,
            merge.key_of(shards),
            progress=_progress(reporter),
        )
        identity = {"model_sha256": facts["model_sha256"]} | merged_facts(
            facts.get("model_contents"),
            calibration["sha256"],
            calibration["seed"],
            calibration["alpha"],
            facts["n_text_asked"],
        )
        run.update(merged={"shards": len(shards)} | identity)
        _write_profile(run, result)

    run.run_stage("profile", shards[0].facts["request_key"], PROFILE_FILES, make)
    return _finished_profile(run)


def _progress(reporter: Reporter) -> Progress:
    from luq_gguf.calibration import profiler

    return profiler.Progress(
        lambda done, total: reporter.progress("calibration samples", done, total),
        lambda done, total: reporter.progress("layer entropies", done, total),
    )


def _write_profile(run: RunFolder, result: ProfileResult) -> None:
    from safetensors.numpy import save_file

    profile, matrix, arrays = result
    sources = [str(name) for name in cast("list[object]", profile.calibration["sources"])]
    with atomic.whole(run.file(header_only.IMATRIX_NAME)) as part:
        imatrix.write(part, matrix, sources, 512)
    with atomic.whole(run.file("profile.safetensors")) as part:
        save_file(arrays, part)
        part.chmod(run.file("run.json").stat().st_mode & 0o777)  # the library makes it private
    serialization.write_json(run.file("profile.json"), serialization.profile_to_json(profile))


def _finished_profile(run: RunFolder) -> Profile:
    for name in PROFILE_STATE:  # only now: until the stage is recorded, its state saves hours
        (run.work / name).unlink(missing_ok=True)
    return serialization.read_profile(run.file("profile.json"))
