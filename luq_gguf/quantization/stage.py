"""The stages that write GGUF files: 16-bit halves, the LUQ file, what it is compared with, and the layer bank."""

from __future__ import annotations

import os
from pathlib import Path

from luq_gguf.core.reporter import Listener
from luq_gguf.core.types import Budget, Plan, QuantizedModel
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import converter, quantize
from luq_gguf.llamacpp.gguf import header_only, mmproj, reader
from luq_gguf.method import tensor_types, two_type_plan
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.quantization import slices
from luq_gguf.quantization.checks import check_same_columns, check_same_tensors
from luq_gguf.run.disk import check_disk
from luq_gguf.run.folder import RunFolder, hash_of
from luq_gguf.run.preflight import Door, planned_door, safe_name


def file_name(checkpoint: Checkpoint, plan: Plan) -> str:
    """NAME-LUQ12-IQ1_M-Q4_K_M.gguf; other rules than the paper's are named. Of many types, NAME-LUQ-best-Q2_K-Q6_K.gguf
    has those of the fewest and the most bits in its layers."""
    if plan.ranking == "best":
        inside = {kind for name, kind in plan.tensor_types.items() if layer_of(name) is not None}
        bits = sorted(inside - set(two_type_plan.UNQUANTIZED), key=reader.bits_per_weight)
        return f"{safe_name(checkpoint.name)}-LUQ-best-{bits[0]}-{bits[-1]}.gguf"
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
            mmproj.write(out, checkpoint.name, door.clip, shapes, read, on_progress)
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
        check_same_tensors(info, door.source)
        check_same_columns(run, info)

    run.run_stage("f16", _conversion_key(door), [path.name], make, hashed=False)
    return path


def link_f16(run: RunFolder, owner: RunFolder, door: Door) -> None:
    """Another run folder's 16-bit GGUF of the same checkpoint, for a run that differs in its calibration alone."""
    name = f16_name(door.checkpoint)

    def make() -> None:
        run.file(name).unlink(missing_ok=True)
        run.file(name).symlink_to(os.path.relpath(owner.file(name), run.path))

    run.run_stage("f16", _conversion_key(door), [name], make, hashed=False)


def _conversion_key(door: Door) -> str:
    return hash_of(door.checkpoint.fingerprint, str(door.llama.converter))


def write_quantized(
    run: RunFolder,
    door: Door,
    plan: Plan,
    stage: str,
    name: str,
    threads: int | None,
    listener: Listener,
    *,
    in_slices: bool = False,
) -> QuantizedModel:
    """Quantize by the plan under a stage's and a file's name, from the 16-bit GGUF, which is made if it is missing; or
    in slices, without one."""
    stages = run.read()["stages"]
    imatrix = stages.get("profile", {}).get("outputs", {}).get(header_only.IMATRIX_NAME, {}).get("sha256")
    key = hash_of(door.checkpoint.fingerprint, dict(plan.tensor_types), plan.high, imatrix, str(door.llama.converter))

    def make() -> None:
        if in_slices:
            slices.write_plan(run, door, plan, run.file(name), key, threads, listener)
        else:
            write_plan(run, door, plan, run.file(name), threads, listener, stage)

    run.run_stage(stage, key, [name], make)
    written = reader.read(run.file(name))
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
    in_slices: bool = False,
    listener: Listener = Listener(),
) -> QuantizedModel:
    """Quantize stage: the mmproj, the 16-bit GGUF (deleted afterwards unless kept; none in slices), the LUQ file,
    verified."""
    make_mmproj(run, door, listener)
    name = file_name(door.checkpoint, plan)
    made = write_quantized(run, door, plan, "quantize", name, threads, listener, in_slices=in_slices)
    slices.clear(run)
    if keep_f16:
        make_f16(run, door, listener)
        run.hash_outputs("f16")
    else:
        run.file(f16_name(door.checkpoint)).unlink(missing_ok=True)
        run.forget("f16")
    return made


def make_bank(run: RunFolder, door: Door, threads: int | None, listener: Listener) -> tuple[Path, Path]:
    """The layer bank: the model with all layers low, and with none."""
    (run.work / "bank").mkdir(exist_ok=True)
    names = f".work/bank/{door.tensors.low}.gguf", f".work/bank/{door.tensors.high}.gguf"
    for stage, name, count in (("bank-low", names[0], door.tensors.n_layers), ("bank-high", names[1], 0)):
        plan = two_type_plan.make_plan(door.tensors, range(door.tensors.n_layers), Budget(low_layers=count), "bank")
        write_quantized(run, door, plan, stage, name, threads, listener)
    return run.file(names[0]), run.file(names[1])


def make_baseline(
    run: RunFolder, door: Door, plan: Plan, *, threads: int | None = None, listener: Listener = Listener()
) -> QuantizedModel:
    """The file to compare with: every tensor's stock type under the plan's high ftype, with the same imatrix."""
    stock = two_type_plan.make_plan(door.tensors, plan.order, Budget(low_layers=0), plan.ranking)
    name = f"{safe_name(door.checkpoint.name)}-{plan.high}.gguf"
    return write_quantized(run, door, stock, "baseline", name, threads, listener)


def baseline(run_dir: Path, *, threads: int | None = None, listener: Listener = Listener()) -> QuantizedModel:
    """The file of the plan's high ftype alone, of a run folder's model and imatrix."""
    with RunFolder(run_dir) as run:
        door, planned = planned_door(run, None, listener, trust_remote_code=False)
        return make_baseline(run, door, planned, threads=threads, listener=listener)


def compared_files(
    run_dir: Path,
    *,
    threads: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
    listener: Listener = Listener(),
) -> tuple[list[Path], Path | None]:
    """The 16-bit file, that of the plan's high ftype, and the LUQ file of a run folder, made where they are missing;
    and the mmproj."""
    with RunFolder(run_dir) as run:
        door, planned = planned_door(run, model, listener, trust_remote_code=trust_remote_code)
        check_disk(run, door, planned.predicted_file_bytes)
        made = make_file(run, door, planned, threads=threads, keep_f16=True, listener=listener)
        stock = make_baseline(run, door, planned, threads=threads, listener=listener)
        name = mmproj_name(door.checkpoint)
        return [make_f16(run, door, listener), stock.path, made.path], run.file(name) if name else None
