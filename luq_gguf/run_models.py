"""A planned run folder's model: its door, its shapes, and the files that its LUQ file is compared with."""

from __future__ import annotations

from pathlib import Path

from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.types import Plan, QuantizedModel
from luq_gguf.quantization.stage import make_baseline, make_f16, make_file, mmproj_name
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.preflight import Door, Listener, check_disk, open_door


def model_of(run: RunFolder) -> str:
    """The checkpoint that a run folder is of. Raises RunFolderError where run.json does not say."""
    model = run.read().get("model")
    if not isinstance(model, str):
        raise RunFolderError(f"{run.path / 'run.json'} names no model.", "Add --model with the checkpoint.")
    return model


def planned_door(run: RunFolder, model: str | None, trust_remote_code: bool, listener: Listener) -> tuple[Door, Plan]:
    """The door of a run folder's model with the types of its plan.json, and that plan. Raises RunFolderError."""
    planned = serialization.read_plan(run.file("plan.json"))
    where, types = model or model_of(run), {"low": planned.low, "high": planned.high}
    return open_door(run, where, **types, trust_remote_code=trust_remote_code, force=True, listener=listener), planned


def baseline(run_dir: Path, *, threads: int | None = None, listener: Listener = Listener()) -> QuantizedModel:
    """The file of the plan's high ftype alone, of a run folder's model and imatrix."""
    with RunFolder(run_dir) as run:
        door, planned = planned_door(run, None, False, listener)
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
        door, planned = planned_door(run, model, trust_remote_code, listener)
        check_disk(run, door, planned.predicted_file_bytes)
        made = make_file(run, door, planned, threads=threads, keep_f16=True, listener=listener)
        stock = make_baseline(run, door, planned, threads=threads, listener=listener)
        name = mmproj_name(door.checkpoint)
        return [make_f16(run, door, listener), stock.path, made.path], run.file(name) if name else None


def geometry(
    run_dir: Path, *, model: str | None = None, trust_remote_code: bool = False, listener: Listener = Listener()
) -> Geometry:
    """The shapes and types of a run folder's model."""
    with RunFolder(run_dir) as run:
        where = model or model_of(run)
        door = open_door(run, where, trust_remote_code=trust_remote_code, force=True, listener=listener)
        return Geometry(door.source, door.tensors)
