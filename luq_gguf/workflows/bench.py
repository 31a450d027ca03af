"""`bench`: which files are compared, of a run folder, of a geometry alone, or as given; and what each type does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from luq_gguf import kernels
from luq_gguf.benchmarking import file_benchmark, synthetic_model, type_benchmark
from luq_gguf.benchmarking.file_benchmark import Arm, BenchRequest
from luq_gguf.benchmarking.type_benchmark import Geometry
from luq_gguf.core import machine
from luq_gguf.core.errors import EvaluationError, KernelsError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.speeds import Bench, BenchConditions, TypeSpeed, TypeSpeeds
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.kernels import build, state
from luq_gguf.llamacpp import shape_file, tools
from luq_gguf.llamacpp.gguf import mmproj as mmproj_file
from luq_gguf.llamacpp.gguf import reader, shards
from luq_gguf.method import two_type_plan
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.reporting import figures
from luq_gguf.run import serialization


@dataclass(frozen=True)
class ShapeRequest:
    """Which files of a geometry alone: `model` in its high ftype; with `low_layers` layers in each of the low types,
    where that is not None or 0; and in 16 bits (`f16`)."""

    model: str
    low_layers: int | None = None
    lows: tuple[str, ...] = ("IQ1_M",)
    high: str = "Q4_K_M"
    f16: bool = False


def bench_files(
    files: Sequence[Path], mmproj: Path | None, request: BenchRequest, out: Path, reporter: Reporter
) -> Bench:
    """Measure files as they are; the vision half is the one given, or the only one next to each file."""
    files = list(dict.fromkeys(shards.files_of(path)[0] for path in files))
    if len({path.name for path in files}) < len(files):
        raise EvaluationError(
            "Two files have the same name.", "Rename one of them: the table tells files apart by name."
        )
    halves = [mmproj or _only_mmproj(path, reporter) for path in files]
    arms = [file_benchmark.make_arm(path, half) for path, half in zip(files, halves, strict=True)]
    for path, half in zip(files, halves, strict=True):
        if half:
            mmproj_file.check_pair(path, half)
    arms = _hashed(arms, reporter)
    baseline = file_benchmark.find_baseline(arms)
    return _bench(arms, baseline, request, file_benchmark.make_conditions(request, baseline), out, reporter)


def _hashed(arms: Sequence[Arm], reporter: Reporter) -> list[Arm]:
    """Add the files' hashes, so that their figures are never attributed to others."""
    hashed = []
    for done, arm in enumerate(arms, 1):
        hashed.append(replace(arm, sha256=shards.sha256(arm.path)))
        reporter.progress("sha256 of files", done, len(arms))
    return hashed


def _only_mmproj(path: Path, reporter: Reporter) -> Path | None:
    candidates = mmproj_file.candidates(path)
    if len(candidates) > 1:
        names = ", ".join(candidate.name for candidate in candidates)
        reporter.info(
            f"{path.name}: no answers about images are timed, because {len(candidates)} mmproj files are beside it "
            f"({names}); choose one with --mmproj"
        )
    return candidates[0] if len(candidates) == 1 else None


def bench_run(
    run_dir: Path,
    request: BenchRequest,
    out: Path,
    reporter: Reporter,
    options: RunOptions = RunOptions(),
    *,
    model: str | None = None,
) -> Bench:
    """Measure a run folder's 16-bit file, the one of its high ftype and its LUQ file, made where they are missing."""
    files, mmproj = quantization_stage.compared_files(run_dir, options, reporter, model=model)
    arms = _hashed([file_benchmark.make_arm(path, mmproj) for path in files], reporter)
    return _bench(arms, arms[1], request, file_benchmark.make_conditions(request, arms[1]), out, reporter)


def bench_synthetic(shape: ShapeRequest, request: BenchRequest, out: Path, reporter: Reporter) -> Bench:
    """Measure files of a geometry with random weights: the high ftype, and with so many layers in each low type.

    They lie beside `out` while they are measured.
    """
    llama, model, low_layers, high = tools.find(), shape.model, shape.low_layers, shape.high
    with tempfile.TemporaryDirectory(prefix="luq-shape-", dir=out.parent) as work:
        folder, arms = Path(work), list[Arm]()
        source = synthetic_model.synthetic_outline(model, folder / "shape", llama)
        geometries = {low: synthetic_model.geometry(source, llama, low, high) for low in shape.lows}
        name = model.rstrip("/").rsplit("/", 1)[-1]
        for label, geometry, types in _wanted(name, geometries, shape):
            progress = partial(_share, reporter, f"writing {label}")
            written = shape_file.write(folder / f"{label}.gguf", geometry.source, types, on_progress=progress)
            arms.append(file_benchmark.make_arm(written.path))
        stock = next(arm for arm in arms if arm.path.stem == f"{name}-{high.upper()}")
        weights = "random; geometry, types and sizes are the model's"
        conditions = replace(file_benchmark.make_conditions(request, stock), weights=weights, model=model)
        if low_layers:
            n_layers = next(iter(geometries.values())).tensors.n_layers
            layers = ", ".join(map(str, synthetic_model.spread_layers(n_layers, low_layers)))
            conditions = replace(conditions, low_layers=layers)
        return _bench(arms, stock, request, conditions, out, reporter)


def _share(reporter: Reporter, stage: str, share: float) -> None:
    reporter.progress(stage, share, 1.0)


def _wanted(
    name: str, geometries: Mapping[str, Geometry], shape: ShapeRequest
) -> list[tuple[str, Geometry, Mapping[str, str]]]:
    """Name, geometry and types of every file. Raises BudgetError for more low layers than there are."""
    first, low_layers, high = next(iter(geometries.values())), shape.low_layers, shape.high
    two_type_plan.check_budget(first.tensors, Budget(low_layers=low_layers or 0))
    files: list[tuple[str, Geometry, Mapping[str, str]]] = []
    if shape.f16:
        files.append((f"{name}-F16", first, first.source.types))
    files.append((f"{name}-{high.upper()}", first, two_type_plan.tensor_types(first.tensors, ())))
    if low_layers:
        layers = synthetic_model.spread_layers(first.tensors.n_layers, low_layers)
        for low, geometry in geometries.items():
            label = f"{name}-LUQ{low_layers}-{low.upper()}-{high.upper()}"
            files.append((label, geometry, two_type_plan.tensor_types(geometry.tensors, layers)))
    return files


def _bench(
    arms: Sequence[Arm],
    baseline: Arm | None,
    request: BenchRequest,
    conditions: BenchConditions,
    out: Path,
    reporter: Reporter,
) -> Bench:
    if request.kernels:
        arms, path = _with_kernels(arms, reporter)
        conditions = replace(conditions, kernels=f"with {path} instructions")

    def save(finished: Bench) -> None:
        serialization.write_json(out, finished.to_json())

    result = file_benchmark.bench(arms, baseline, request, conditions, save, reporter)
    figures.throughput(result.rows_of_most_threads, out.with_suffix(".png"))
    return result


def _with_kernels(arms: Sequence[Arm], reporter: Reporter) -> tuple[list[Arm], str]:
    """Return the files, each that has tensors of the kernels' types also with them; and the path they take here.

    Raises KernelsError where they cannot be built or this CPU has no path, EvaluationError where no file has any.
    """
    library = build.library(reporter.info)
    path = state.of(library).path
    if path is None:
        raise KernelsError("The kernels do not support this CPU, or LUQ_KERNELS=off.", "Leave out --kernels.")
    computed = {arm.path for arm in arms if any(kind in arm.types for kind in kernels.TYPES)}
    compared = [
        variant for arm in arms for variant in (arm, replace(arm, kernels=library))[: 1 + (arm.path in computed)]
    ]
    if len(compared) == len(arms):
        raise EvaluationError(
            f"No file has tensors in {' or '.join(kernels.TYPES)}, the types of the kernels.", "Leave out --kernels."
        )
    return compared, path


def bench_types(run_dir: Path | None, model: str, threads: int, reporter: Reporter, *, again: bool) -> TypeSpeeds:
    """Measure every candidate type in layers of a run folder's model, or of a geometry, and how fast memory is."""
    if run_dir:
        geometry = type_benchmark.geometry(run_dir, reporter=reporter)
        table = type_benchmark.measured_rates(geometry, threads, reporter, again=again)
    else:
        with tempfile.TemporaryDirectory(prefix="luq-shape-") as folder:
            source = synthetic_model.synthetic_outline(model, Path(folder) / "shape", tools.find())
            geometry = synthetic_model.geometry(source, tools.find(), "IQ1_M", "Q4_K_M")
            table = type_benchmark.measured_rates(geometry, threads, reporter, again=again)
    types = sorted(_type_speeds(table), key=lambda speed: speed.bpw)
    return TypeSpeeds(table.threads, table.n_prompt, machine.read_bandwidth(table.threads) / 1e9, tuple(types))


def _type_speeds(table: SpeedTable) -> list[TypeSpeed]:
    speeds, stock = [], table.rates.get("Q4_K")
    for kind, rate in table.rates.items():
        bits, decode, prefill = (
            reader.bits_per_weight(kind),
            rate.decode_weights_per_second,
            rate.prefill_weights_per_second,
        )
        ratios = (
            (decode / stock.decode_weights_per_second, prefill / stock.prefill_weights_per_second)
            if stock
            else (None, None)
        )
        speeds.append(TypeSpeed(kind, bits, decode * bits / 8e9, decode, prefill, *ratios))
    return speeds
