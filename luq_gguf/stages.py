"""The stages: each reads files of the run folder, writes files there, and is skipped while its inputs are unchanged.

Nothing here prints: `Listener` is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luq_gguf import artefacts, planner, ranking, tensor_types
from luq_gguf.door import Door, Listener, safe_name
from luq_gguf.errors import CheckpointError, ConversionError, RunFolderError
from luq_gguf.hf import calibration as calibration_input
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import clip_mmproj, converter, gguf_files, imatrix_file, quantize, skeleton
from luq_gguf.run_folder import RunFolder, hash_of
from luq_gguf.values import COLUMNS, Budget, Plan, Profile, QuantizedModel

PROFILE_FILES = ("profile.json", "profile.safetensors", skeleton.IMATRIX_NAME)
PROFILE_STATE = ("pass.npz", "entropies.npz", "reservoir-multimodal.bin", "reservoir-text.bin")
PLAN_FILES = ("plan.json", "tensor-types.txt")


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
        profile, matrix, arrays = profiler.profile(
            checkpoint, calibration, door.names, run.work, device=device, progress=progress
        )
        part = run.file(skeleton.IMATRIX_NAME + ".part")
        imatrix_file.write(part, matrix, calibration.sources, 512)
        part.replace(run.file(skeleton.IMATRIX_NAME))
        part = run.file("profile.safetensors.part")
        save_file(arrays, part)
        part.chmod(run.file("run.json").stat().st_mode & 0o777)  # the library makes it private
        part.replace(run.file("profile.safetensors"))
        artefacts.write_json(run.file("profile.json"), artefacts.profile_to_json(profile))

    run.run_stage("profile", key, PROFILE_FILES, make)
    for name in PROFILE_STATE:  # only now: until the stage is recorded, its state saves hours
        (run.work / name).unlink(missing_ok=True)
    return artefacts.read_profile(run.file("profile.json"))


def make_plan(
    run: RunFolder,
    door: Door,
    budget: Budget,
    *,
    rule: str = "entropy",
    seed: int = 0,
    order: Sequence[int] | None = None,
    measured: Mapping[str, object] | None = None,
) -> Plan:
    """Plan stage: plan.json, tensor-types.txt.

    `order` is given where the rule is more than the profile's entropies; `measured` is added to the budget's account.
    """
    profile = artefacts.read_profile(run.file("profile.json"))
    if len(profile.layers) != door.tensors.n_layers:
        raise RunFolderError(
            f"profile.json is of a model with {len(profile.layers)} layers, {door.checkpoint.name} has "
            f"{door.tensors.n_layers}.",
            "Run luq-gguf profile again.",
        )
    ranked = order if order is not None else ranking.rank(profile.layers, rule, seed)
    ties = ranking.near_ties(profile.layers, ranked) if rule.startswith("entropy") else ()
    plan = planner.make_plan(door.tensors, ranked, budget, rule, ties)
    doubtful = ranking.unsettled(profile.rankings, len(plan.low_layers), rule)
    plan = replace(plan, unsettled=doubtful, budget={**plan.budget, **(measured or {})})

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


def f16_name(checkpoint: Checkpoint) -> str:
    return f"{safe_name(checkpoint.name)}-F16.gguf"


def make_mmproj(run: RunFolder, door: Door, listener: Listener = Listener()) -> Path | None:
    """Vision half to a 16-bit mmproj file; None for a model that reads text only."""
    name = mmproj_name(door.checkpoint)
    if name is None:
        return None

    def on_progress(share: float) -> None:
        listener.progress("vision half to F16", share, 1.0)

    def make() -> None:
        checkpoint, out = door.checkpoint, run.file(name)
        if door.clip:
            names = llava.vision_names(checkpoint, door.clip)
            hf_names = {ours: theirs for theirs, ours in names.items()}
            shapes = {ours: checkpoint.shapes[theirs] for theirs, ours in names.items()}
            read = lambda tensor: llava.read_tensor(checkpoint, hf_names[tensor])  # noqa: E731
            clip_mmproj.write(out, checkpoint.name, door.clip, shapes, read, on_progress)
        else:
            converter.to_16_bit(
                door.llama, checkpoint.folder, out, checkpoint.name, mmproj=True, on_progress=on_progress
            )

    run.run_stage("mmproj", _conversion_key(door), [name], make)
    return run.file(name)


def make_f16(run: RunFolder, door: Door, listener: Listener = Listener()) -> Path:
    """Text half to a 16-bit GGUF."""
    path = run.file(f16_name(door.checkpoint))

    def make() -> None:
        info = converter.to_16_bit(
            door.llama,
            door.checkpoint.folder,
            path,
            door.checkpoint.name,
            on_progress=lambda share: listener.progress("text model to F16", share, 1.0),
        )
        _check_same_tensors(info, door.source)
        _check_same_columns(run, path)

    run.run_stage("f16", _conversion_key(door), [path.name], make)
    return path


def _conversion_key(door: Door) -> str:
    return hash_of(door.checkpoint.fingerprint, str(door.llama.converter))


def _write_quantized(
    run: RunFolder, door: Door, plan: Plan, stage: str, name: str, threads: int | None, listener: Listener
) -> QuantizedModel:
    """Quantize by the plan under a stage's and a file's name, from the 16-bit GGUF, which is made if it is missing."""
    stages = run.read()["stages"]
    imatrix = stages.get("profile", {}).get("outputs", {}).get(skeleton.IMATRIX_NAME, {}).get("sha256")
    key = hash_of(door.checkpoint.fingerprint, dict(plan.tensor_types), plan.high, imatrix, str(door.llama.converter))

    def make() -> None:
        write_plan(run, door, plan, run.file(name), threads, listener, stage)

    run.run_stage(stage, key, [name], make)
    written = gguf_files.read(run.file(name))
    digest = run.read()["stages"][stage]["outputs"][name]["sha256"]
    return QuantizedModel(run.file(name), written.n_bytes, digest, written.types)


def write_plan(
    run: RunFolder, door: Door, plan: Plan, path: Path, threads: int | None, listener: Listener, label: str = "quantize"
) -> None:
    """Quantize the 16-bit GGUF, made if it is missing, as planned."""
    f16 = make_f16(run, door, listener)
    types = run.file(f"{path.stem}-types.txt.part")
    types.write_text(tensor_types.to_text(quantize.overrides(door.source, plan)))
    quantize.quantize(
        door.llama,
        f16,
        path,
        plan,
        types,
        threads=threads,
        on_progress=lambda done, total: listener.progress(f"{label}: tensors", done, total),
    )
    types.unlink()


def make_file(
    run: RunFolder,
    door: Door,
    plan: Plan,
    *,
    threads: int | None = None,
    keep_f16: bool = False,
    listener: Listener = Listener(),
) -> QuantizedModel:
    """Quantize stage: the mmproj, the 16-bit GGUF (deleted afterwards unless kept), the LUQ file, verified."""
    make_mmproj(run, door, listener)
    made = _write_quantized(run, door, plan, "quantize", file_name(door.checkpoint, plan), threads, listener)
    if keep_f16:
        make_f16(run, door, listener)
    else:
        run.file(f16_name(door.checkpoint)).unlink(missing_ok=True)
        run.forget("f16")
    return made


def make_bank(run: RunFolder, door: Door, threads: int | None, listener: Listener) -> tuple[Path, Path]:
    """The layer bank: the model with all layers low, and with none."""
    (run.work / "bank").mkdir(exist_ok=True)
    names = f".work/bank/{door.tensors.low}.gguf", f".work/bank/{door.tensors.high}.gguf"
    for stage, name, count in (("bank-low", names[0], door.tensors.n_layers), ("bank-high", names[1], 0)):
        plan = planner.make_plan(door.tensors, range(door.tensors.n_layers), Budget(low_layers=count), "bank")
        _write_quantized(run, door, plan, stage, name, threads, listener)
    return run.file(names[0]), run.file(names[1])


def make_baseline(
    run: RunFolder, door: Door, plan: Plan, *, threads: int | None = None, listener: Listener = Listener()
) -> QuantizedModel:
    """The file to compare with: every tensor's stock type under the plan's high ftype, with the same imatrix."""
    stock = planner.make_plan(door.tensors, plan.order, Budget(low_layers=0), plan.ranking)
    name = f"{safe_name(door.checkpoint.name)}-{plan.high}.gguf"
    return _write_quantized(run, door, stock, "baseline", name, threads, listener)


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


def _check_same_columns(run: RunFolder, f16: Path) -> None:
    """Importance is per column as transformers has them: the converter must not have put them in another order."""
    from safetensors.numpy import load_file

    for name, ours in load_file(run.file("profile.safetensors")).items():
        if not name.startswith(COLUMNS):
            continue
        theirs = gguf_files.column_energies(f16, name.removeprefix(COLUMNS))
        shares = ours / max(ours.sum(), 1e-300), theirs / max(theirs.sum(), 1e-300)
        # 16-bit rounding moves a share by 1e-4 of itself, another order by some percent.
        if abs(shares[0] - shares[1]).max() > 5e-3 * shares[0].mean():
            raise ConversionError(
                f"llama.cpp's converter puts the columns of {name.removeprefix(COLUMNS)} in an order of its own, so "
                "their importance would weigh on others.",
                "luq-gguf does not know this order yet; please report it with the model's name.",
            )
