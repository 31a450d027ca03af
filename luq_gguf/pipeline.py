"""The order of the stages: checkpoint -> profile -> plan -> file; what is skipped and what is resumed.

Each stage reads files of the run folder and writes files there. Nothing here prints: `Listener` is told.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf import artefacts, planner, ranking, tensor_types
from luq_gguf.errors import CheckpointError, DiskSpaceError, RunFolderError
from luq_gguf.hf import calibration as calibration_input
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.tensor_names import TensorNames, text_shapes
from luq_gguf.llamacpp import converter, gguf_files, imatrix_file, quantize, skeleton, tools
from luq_gguf.llamacpp.tools import LlamaCpp
from luq_gguf.run_folder import RunFolder, hash_of
from luq_gguf.values import Budget, ModelTensors, Plan, Profile, QuantizedModel

PROFILE_FILES = ("profile.json", "profile.safetensors", skeleton.IMATRIX_NAME)
PROFILE_STATE = ("pass.npz", "entropies.npz", "reservoir-multimodal.bin", "reservoir-text.bin")
PLAN_FILES = ("plan.json", "tensor-types.txt")


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: progress of a named stage (done, total), and sentences worth knowing."""

    progress: Callable[[str, float, float], None] = lambda stage, done, total: None
    say: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class CalibrationRequest:
    """What the user asked to calibrate with."""

    images: str | None = None
    text: str | None = None
    alpha: float = 0.5
    n_samples: int = 128
    seed: int = 0

    def key(self) -> str:
        """Changes when the request or the local files behind it change."""
        return hash_of(vars(self), [_stamps(source) for source in (self.images, self.text)])

    def for_text_only(self) -> CalibrationRequest:
        return CalibrationRequest(None, self.text, 0.0, self.n_samples, self.seed)


def _stamps(source: str | None) -> list[object]:
    path = Path(source).expanduser() if source else None
    if path is None or not path.exists():
        return []
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(f.relative_to(path.parent)), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]


@dataclass(frozen=True)
class Door:
    """What is known of a checkpoint before anything heavy: names, both types of every tensor, all sizes."""

    checkpoint: Checkpoint
    llama: LlamaCpp
    source: gguf_files.GGUFInfo
    names: TensorNames
    tensors: ModelTensors


def safe_name(name: str) -> str:
    """A model's name as it stands in file names."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def open_door(
    run: RunFolder,
    model: str,
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    trust_remote_code: bool = False,
    force: bool = False,
    dataset: str | None = None,
    listener: Listener = Listener(),
) -> Door:
    """Check model, tools and types, and learn all tensors. Raises InputError's children with what is wrong.

    The converter writes the model's metadata (it refuses unknown architectures and tokenizers there), and a skeleton
    with the tensors' shapes goes through llama-quantize's dry run.
    """
    llama = tools.find()
    low, high = gguf_files.check_type(low, "--low"), quantize.check_ftype(llama, high)
    checkpoint = checkpoints.open_checkpoint(model, trust_remote_code=trust_remote_code)
    path, metadata = run.work / "skeleton.gguf", run.work / "metadata.gguf"

    def make() -> None:
        listener.say(f"reading {checkpoint.name}")
        if checkpoint.has_vision and checkpoint.architecture not in converter.known_mmproj_architectures(llama):
            raise CheckpointError(
                f"llama.cpp's converter cannot write the vision half of {checkpoint.architecture}.",
                "Choose a vision-language model of another family.",
            )
        info = converter.metadata_only(llama, checkpoint.folder, metadata, checkpoint.name)
        shapes = text_shapes(checkpoint.shapes, TensorNames(info.arch, info.n_layers))
        part = path.with_name(path.name + ".part")
        skeleton.write(part, metadata, shapes)
        part.replace(path)
        metadata.unlink()

    run.run_stage("door", hash_of(checkpoint.fingerprint, str(llama.converter)), [".work/skeleton.gguf"], make)
    source = gguf_files.read(path)
    names = TensorNames(source.arch, source.n_layers)
    tensors = quantize.model_tensors(llama, source, low, high, (dataset,) if dataset else ())
    _check_fallbacks(tensors, force, listener)
    return Door(checkpoint, llama, source, names, tensors)


def _check_fallbacks(tensors: ModelTensors, force: bool, listener: Listener) -> None:
    fallen = quantize.fallbacks(tensors)
    if not fallen:
        return
    total = sum(len(names) for names in fallen.values())
    told = "; ".join(f"{_kinds(names)} would become {kind}" for kind, names in fallen.items())
    sentence = f"{total} matrices have rows that {tensors.low}'s blocks of 256 do not divide: {told}."
    if not force:
        raise CheckpointError(
            sentence, "Choose a --low type of 32-weight blocks such as Q4_0 or IQ4_NL, or accept this with --force."
        )
    listener.say(sentence)


def _kinds(names: list[str]) -> str:
    """Tensor names without their layers: "attn_k, ffn_up"."""
    return ", ".join(sorted({name.split(".", 2)[2].removesuffix(".weight") for name in names}))


def make_profile(
    run: RunFolder,
    door: Door,
    request: CalibrationRequest,
    *,
    device: str = "auto",
    listener: Listener = Listener(),
) -> Profile:
    """Profile stage: profile.json, profile.safetensors, imatrix.gguf."""
    checkpoint = door.checkpoint
    if not checkpoint.has_vision:
        request = request.for_text_only()
        listener.say(f"{checkpoint.name} reads text only: alpha is 0")
    key = hash_of(checkpoint.fingerprint, request.key(), device)

    def make() -> None:
        from safetensors.numpy import save_file

        from luq_gguf.hf import profiler

        calibration = calibration_input.read_calibration(
            request.images,
            request.text,
            n_samples=request.n_samples,
            alpha=request.alpha,
            seed=request.seed,
            cache=run.work / "images",
        )
        if calibration.skipped:
            listener.say(f"{len(calibration.skipped)} unreadable images skipped: {', '.join(calibration.skipped[:5])}")
        progress = profiler.Progress(
            lambda done, total: listener.progress("calibration samples", done, total),
            lambda done, total: listener.progress("layer entropies", done, total),
        )
        profile, matrix, histograms = profiler.profile(
            checkpoint, calibration, door.names, run.work, device=device, progress=progress
        )
        part = run.file(skeleton.IMATRIX_NAME + ".part")
        imatrix_file.write(part, matrix, calibration.sources, 512)
        part.replace(run.file(skeleton.IMATRIX_NAME))
        part = run.file("profile.safetensors.part")
        save_file(histograms, part)
        part.chmod(run.file("run.json").stat().st_mode & 0o777)  # the library makes it private
        part.replace(run.file("profile.safetensors"))
        artefacts.write_json(run.file("profile.json"), artefacts.profile_to_json(profile))

    run.run_stage("profile", key, PROFILE_FILES, make)
    for name in PROFILE_STATE:  # only now: until the stage is recorded, its state saves hours
        (run.work / name).unlink(missing_ok=True)
    return artefacts.read_profile(run.file("profile.json"))


def make_plan(run: RunFolder, door: Door, budget: Budget, *, rule: str = "entropy", seed: int = 0) -> Plan:
    """Plan stage: plan.json, tensor-types.txt."""
    profile = artefacts.read_profile(run.file("profile.json"))
    if len(profile.layers) != door.tensors.n_layers:
        raise RunFolderError(
            f"profile.json is of a model with {len(profile.layers)} layers, {door.checkpoint.name} has "
            f"{door.tensors.n_layers}.",
            "Run luq-gguf profile again.",
        )
    order = ranking.rank(profile.layers, rule, seed)
    ties = ranking.near_ties(profile.layers, order) if rule != "random" else ()
    plan = planner.make_plan(door.tensors, order, budget, rule, ties)

    def make() -> None:
        artefacts.write_json(run.file("plan.json"), artefacts.plan_to_json(plan))
        text = tensor_types.to_text(quantize.overrides(door.source, plan))
        part = run.file("tensor-types.txt.part")
        part.write_text(text)
        part.replace(run.file("tensor-types.txt"))

    run.run_stage("plan", hash_of(artefacts.plan_to_json(plan)), PLAN_FILES, make)
    return plan


def file_name(checkpoint: Checkpoint, plan: Plan) -> str:
    """NAME-LUQ12-IQ1_M-Q4_K_M.gguf; other rules than the paper's are named."""
    rule = "" if plan.ranking == "entropy" else f"-{plan.ranking}"
    name = safe_name(checkpoint.name)
    return f"{name}-LUQ{len(plan.low_layers)}{rule}-{plan.low}-{plan.high}.gguf"


def mmproj_name(checkpoint: Checkpoint) -> str | None:
    return f"mmproj-{safe_name(checkpoint.name)}-F16.gguf" if checkpoint.has_vision else None


def make_file(
    run: RunFolder,
    door: Door,
    plan: Plan,
    *,
    threads: int | None = None,
    keep_f16: bool = False,
    listener: Listener = Listener(),
) -> QuantizedModel:
    """Quantize stage: the 16-bit GGUF (deleted afterwards unless kept), the mmproj, the LUQ file, verified."""
    checkpoint, name, mmproj = door.checkpoint, file_name(door.checkpoint, plan), mmproj_name(door.checkpoint)
    f16 = f"{safe_name(checkpoint.name)}-F16.gguf"
    version = str(door.llama.converter)
    if mmproj:

        def make_mmproj() -> None:
            converter.to_16_bit(
                door.llama,
                checkpoint.folder,
                run.file(mmproj),
                checkpoint.name,
                mmproj=True,
                on_progress=lambda share: listener.progress("vision half to F16", share, 1.0),
            )

        run.run_stage("mmproj", hash_of(checkpoint.fingerprint, version), [mmproj], make_mmproj)

    f16_key = hash_of(checkpoint.fingerprint, version)

    def make_f16() -> None:
        info = converter.to_16_bit(
            door.llama,
            checkpoint.folder,
            run.file(f16),
            checkpoint.name,
            on_progress=lambda share: listener.progress("text model to F16", share, 1.0),
        )
        _check_same_tensors(info, door.source)

    def make_quantized() -> None:
        run.run_stage("f16", f16_key, [f16], make_f16)
        quantize.quantize(
            door.llama,
            run.file(f16),
            run.file(name),
            plan,
            run.file("tensor-types.txt"),
            threads=threads,
            on_progress=lambda done, total: listener.progress("tensors quantized", done, total),
        )

    imatrix = run.read()["stages"].get("profile", {}).get("outputs", {}).get(skeleton.IMATRIX_NAME, {}).get("sha256")
    key = hash_of(checkpoint.fingerprint, dict(plan.tensor_types), plan.high, imatrix, version)
    run.run_stage("quantize", key, [name], make_quantized)
    if keep_f16:
        run.run_stage("f16", f16_key, [f16], make_f16)
    else:
        run.file(f16).unlink(missing_ok=True)
        run.forget("f16")
    written = gguf_files.read(run.file(name))
    digest = run.read()["stages"]["quantize"]["outputs"][name]["sha256"]
    return QuantizedModel(run.file(name), written.n_bytes, digest, written.types)


def _check_same_tensors(written: gguf_files.GGUFInfo, expected: gguf_files.GGUFInfo) -> None:
    """The plan was made on the skeleton: the converter must have written exactly those tensors."""
    ours = {t.name: (t.type, t.shape) for t in expected.tensors}
    theirs = {t.name: (t.type, t.shape) for t in written.tensors}
    if ours != theirs:
        name = next(n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n))
        raise CheckpointError(
            f"llama.cpp's converter wrote {name} as {theirs.get(name)}, planned was {ours.get(name)}.",
            "This architecture is changed by its conversion in a way luq-gguf does not know yet; please report it.",
        )


def check_disk(run: RunFolder, door: Door, predicted_file_bytes: int) -> None:
    """Raise DiskSpaceError where the 16-bit files, the sampled vectors and the result will not fit."""
    f16 = 2 * door.tensors.n_weights
    vision = max(0, door.checkpoint.n_bytes - f16) if door.checkpoint.has_vision else 0
    width = next(t.shape[0] for t in door.source.tensors if t.name.startswith("token_embd"))
    vectors = 2 * 8192 * door.tensors.n_layers * width * 4
    needed = vision + predicted_file_bytes + max(f16, vectors)
    present = sum(p.stat().st_size for p in run.path.glob("*.gguf") if p.is_file())
    free = shutil.disk_usage(run.path).free + present
    if free < needed:
        raise DiskSpaceError(
            f"{run.path} has {planner.format_size(free)} free; this needs about {planner.format_size(needed)} "
            f"(16-bit GGUF {planner.format_size(f16)}, of which all but the result is deleted afterwards).",
            "Free some room, or give --out a folder on another disk.",
        )


@dataclass(frozen=True)
class Converted:
    """What `convert` made."""

    run_dir: Path
    model: QuantizedModel
    mmproj: Path | None
    plan: Plan
    profile: Profile

    def to_json(self) -> dict[str, Any]:
        return {
            "run_dir": str(self.run_dir),
            "model": str(self.model.path),
            "mmproj": str(self.mmproj) if self.mmproj else None,
            "low_layers": list(self.plan.low_layers),
            "n_bytes": self.model.n_bytes,
            "bpw": self.plan.bpw,
            "predicted_bytes": self.plan.predicted_bytes,
            "predicted_file_bytes": self.plan.predicted_file_bytes,
            "sha256": self.model.sha256,
        }


def convert(
    model: str,
    out: Path,
    budget: Budget,
    request: CalibrationRequest,
    *,
    low: str = "IQ1_M",
    high: str = "Q4_K_M",
    rule: str = "entropy",
    device: str = "auto",
    threads: int | None = None,
    keep_f16: bool = False,
    trust_remote_code: bool = False,
    force: bool = False,
    listener: Listener = Listener(),
) -> Converted:
    """The whole road, resuming at the first stage whose inputs changed."""
    with RunFolder(out, create=True, force=force) as run:
        _claim(run, model, force)
        dataset = calibration_input.source_name(request.images or calibration_input.DEFAULT_IMAGES)
        door = open_door(
            run,
            model,
            low=low,
            high=high,
            trust_remote_code=trust_remote_code,
            force=force,
            dataset=dataset,
            listener=listener,
        )
        planner.check_budget(door.tensors, budget)
        check_disk(run, door, planner.file_bytes(door.tensors, ()))
        profile = make_profile(run, door, request, device=device, listener=listener)
        door = _with_dataset(door, profile)
        plan = make_plan(run, door, budget, rule=rule, seed=request.seed)
        made = make_file(run, door, plan, threads=threads, keep_f16=keep_f16, listener=listener)
        name = mmproj_name(door.checkpoint)
        return Converted(run.path, made, run.file(name) if name else None, plan, profile)


def _with_dataset(door: Door, profile: Profile) -> Door:
    """The door with the header's size for the calibration sources that were really read."""
    from dataclasses import replace

    sources = profile.calibration.get("sources")
    names = tuple(str(s) for s in sources) if isinstance(sources, list) else ()
    header = skeleton.quantized_header_bytes(door.source, names)
    return replace(door, tensors=replace(door.tensors, header_bytes=header))


def _claim(run: RunFolder, model: str, force: bool) -> None:
    """A run folder belongs to one model."""
    before = run.read().get("model")
    if before is not None and before != model and not force:
        raise RunFolderError(
            f"{run.path} holds a run of {before}.", "Give --out another folder, or add --force to use this one."
        )
    run.update(model=model, llama_cpp=tools.pin()["version"])


def profile(
    model: str,
    out: Path,
    request: CalibrationRequest,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    force: bool = False,
    listener: Listener = Listener(),
) -> Profile:
    """The profile stage alone."""
    with RunFolder(out, create=True, force=force) as run:
        _claim(run, model, force)
        # Types do not matter to a profile, so a model whose rows fit no block can be profiled too.
        door = open_door(run, model, trust_remote_code=trust_remote_code, force=True, listener=listener)
        return make_profile(run, door, request, device=device, listener=listener)


def plan(
    run_dir: Path,
    budget: Budget,
    *,
    low: str,
    high: str,
    rule: str,
    seed: int,
    model: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    listener: Listener = Listener(),
) -> Plan:
    """The plan stage alone, on a profiled run folder."""
    with RunFolder(run_dir) as run:
        profiled = artefacts.read_profile(run.file("profile.json"))
        where = model or _model_of(run)
        door = open_door(
            run, where, low=low, high=high, trust_remote_code=trust_remote_code, force=force, listener=listener
        )
        return make_plan(run, _with_dataset(door, profiled), budget, rule=rule, seed=seed)


def quantize_plan(
    run_dir: Path,
    *,
    threads: int | None = None,
    keep_f16: bool = False,
    model: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    listener: Listener = Listener(),
) -> Converted:
    """The quantize stage alone: plan.json as it stands, also where a person has edited it."""
    with RunFolder(run_dir) as run:
        planned = artefacts.read_plan(run.file("plan.json"))
        profiled = artefacts.read_profile(run.file("profile.json"))
        where = model or _model_of(run)
        door = open_door(
            run,
            where,
            low=planned.low,
            high=planned.high,
            trust_remote_code=trust_remote_code,
            force=True,
            listener=listener,
        )
        wrong = set(planned.tensor_types) ^ {t.name for t in door.source.tensors}
        if wrong:
            raise RunFolderError(
                f"plan.json and {door.checkpoint.name} disagree on the tensor {min(wrong)}.", "Run luq-gguf plan again."
            )
        part = run.file("tensor-types.txt.part")
        part.write_text(tensor_types.to_text(quantize.overrides(door.source, planned)))
        part.replace(run.file("tensor-types.txt"))
        check_disk(run, door, planned.predicted_file_bytes)
        made = make_file(run, door, planned, threads=threads, keep_f16=keep_f16, listener=listener)
        name = mmproj_name(door.checkpoint)
        return Converted(run.path, made, run.file(name) if name else None, planned, profiled)


def make_baseline(run_dir: Path, *, threads: int | None = None, listener: Listener = Listener()) -> QuantizedModel:
    """The file to compare with: every tensor's stock type under the plan's high ftype, with the same imatrix.

    Needs the 16-bit GGUF in the run folder (--keep-f16).
    """
    with RunFolder(run_dir) as run:
        planned = artefacts.read_plan(run.file("plan.json"))
        door = open_door(run, _model_of(run), low=planned.low, high=planned.high, force=True, listener=listener)
        stock = planner.make_plan(door.tensors, planned.order, Budget(low_layers=0), planned.ranking)
        base = safe_name(door.checkpoint.name)
        f16, name, types = run.file(f"{base}-F16.gguf"), f"{base}-{planned.high}.gguf", run.file("stock-types.txt.part")

        def make() -> None:
            types.write_text(tensor_types.to_text(quantize.overrides(door.source, stock)))
            quantize.quantize(
                door.llama,
                f16,
                run.file(name),
                stock,
                types,
                threads=threads,
                on_progress=lambda done, total: listener.progress("baseline quantized", done, total),
            )

        stages = run.read()["stages"]
        imatrix = stages.get("profile", {}).get("outputs", {}).get(skeleton.IMATRIX_NAME, {}).get("sha256")
        run.run_stage("baseline", hash_of(door.checkpoint.fingerprint, planned.high, imatrix), [name], make)
        info = gguf_files.read(run.file(name))
        digest = run.read()["stages"]["baseline"]["outputs"][name]["sha256"]
        return QuantizedModel(run.file(name), info.n_bytes, digest, info.types)


def _model_of(run: RunFolder) -> str:
    model = run.read().get("model")
    if not isinstance(model, str):
        raise RunFolderError(f"{run.path / 'run.json'} names no model.", "Add --model with the checkpoint.")
    return model
