"""Collects what a run folder has to publish: its files, checked against run.json, and what was measured on them.

A folder that is unfinished or was changed by hand is refused, because nobody could reproduce its contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.measurements import EvalResult
from luq_gguf.core.speeds import Bench, BenchRow
from luq_gguf.core.types import Plan, Profile
from luq_gguf.llamacpp.gguf import header_only, mmproj, reader
from luq_gguf.method import tensor_types
from luq_gguf.quantization import recipe
from luq_gguf.run import gguf_source, given_imatrix, model_files, provenance, serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.model_files import ModelFile

COMPARED = ("quantize", "baseline", "f16")  # stages for whose files a card may show figures
MEASUREMENTS = ("eval.json", "bench.json", "sweep.json", "alpha.json")


@dataclass(frozen=True)
class OutputFile:
    """A file that a stage wrote."""

    name: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class RunArtifacts:
    """A finished run: `model` is the LUQ file that was made last, `others` are the folder's other model files, the
    smallest first, and `compared` files that are not published, but for which figures are shown too (baseline and
    16-bit; they may have been deleted). `evals` and `speeds` have their entries of eval.json and
    bench.json."""

    run: RunFolder
    facts: Mapping[str, Any]
    profile: Profile
    plan: Plan
    model: OutputFile
    mmproj: OutputFile | None
    imatrix: OutputFile
    others: tuple[ModelFile, ...]
    compared: tuple[OutputFile, ...]
    evals: Mapping[str, tuple[EvalResult, ...]]
    speeds: Mapping[str, BenchRow]
    bench: Bench | None

    @property
    def models(self) -> tuple[OutputFile, ...]:
        """All model files, the one that was made last first."""
        return (self.model, *map(_output, self.others))

    @property
    def base_model(self) -> str | None:
        """The Hub id that the run started from, or that --base-model named; None for a local folder alone."""
        return provenance.base_model(self.facts)


def collect(run: RunFolder) -> RunArtifacts:
    """Collect a finished run. Raises RunFolderError naming what is missing, was changed or belongs to another file."""
    facts, stages = run.read(), run.read()["stages"]
    gguf_source.check_described(run, by="upload")
    for stage, command in (("profile", "profile"), ("plan", "plan"), ("quantize", "quantize")):
        if stage not in stages:
            raise RunFolderError(
                f"{run.path} is not finished: it has no {stage} stage.", f"Run luq-gguf convert, or luq-gguf {command}."
            )
        if changed := run.changed(stage):
            raise RunFolderError(
                f"{changed[0]} is missing, or is not what run.json says was written.",
                f"Run the command that created {run.path} again: it recreates what is missing or was changed.",
            )
    if changed := run.changed("mmproj"):
        raise RunFolderError(f"{changed[0]} is missing, or was changed.", "Run luq-gguf quantize again.")
    plan = serialization.read_plan(run.file("plan.json"))
    if plan.imatrix:
        given_imatrix.stored(run, plan.imatrix)
    model = _only(run, "quantize")
    _check_plan_is_of(run, model, plan)
    vision = run.outputs("mmproj")
    if vision:
        mmproj.check_pair(run.file(model.name), run.file(_only(run, "mmproj").name))
    others = _others(run, model)
    own = {model.name, *(file.name for file in others)}
    beside = (_compared_file(run, stage) for stage in COMPARED[1:] if stage in stages)
    compared = tuple(file for file in beside if file and file.name not in own)
    files_by_name = {file.name: file for file in (model, *map(_output, others), *compared)}
    bench, speeds = _speeds(run, files_by_name)
    return RunArtifacts(
        run,
        facts,
        serialization.read_profile(run.file("profile.json")),
        plan,
        model,
        _only(run, "mmproj") if vision else None,
        _only(run, given_imatrix.STAGE) if plan.imatrix else _calibrated(run),
        others,
        compared,
        _evals(run, files_by_name, model),
        speeds,
        bench,
    )


def _calibrated(run: RunFolder) -> OutputFile:
    """The calibration's importance matrix."""
    return OutputFile(header_only.IMATRIX_NAME, *_facts(run.outputs("profile")[header_only.IMATRIX_NAME]))


def _others(run: RunFolder, model: OutputFile) -> tuple[ModelFile, ...]:
    """The other model files. Raises RunFolderError where one is missing or was changed."""
    model_files.adopt(run)
    others = tuple(file for file in model_files.listed(run) if file.name != model.name)
    for file in others:
        if run.changed(model_files.stage_of(file.name)):
            raise RunFolderError(
                f"{file.name} is missing, or is not what run.json says was written.",
                "Run the luq-gguf convert that made it again.",
            )
    return others


def _output(file: ModelFile) -> OutputFile:
    return OutputFile(file.name, file.n_bytes, file.sha256)


def _compared_file(run: RunFolder, stage: str) -> OutputFile | None:
    """A file for which figures are shown too; None if it was deleted before anybody needed its hash."""
    if not run.changed(stage):
        run.hash_outputs(stage)
    file = _only(run, stage)
    return file if file.sha256 else None


def _only(run: RunFolder, stage: str) -> OutputFile:
    outputs = run.outputs(stage)
    if len(outputs) != 1:
        raise RunFolderError(
            f"{run.path / 'run.json'} does not list exactly one file of the {stage} stage.", "Create the run again."
        )
    name, fact = next(iter(outputs.items()))
    return OutputFile(name, *_facts(fact))


def _facts(fact: Mapping[str, Any]) -> tuple[int, str]:
    return int(fact["n_bytes"]), str(fact["sha256"])


def _check_plan_is_of(run: RunFolder, model: OutputFile, plan: Plan) -> None:
    """A plan made after the file was written belongs to a file that does not exist yet."""
    if tensor_types.differences(plan.tensor_types, reader.read(run.file(model.name)).types):
        raise RunFolderError(
            f"plan.json is not the plan that {model.name} was written from.",
            "Run luq-gguf quantize, then run this command again.",
        )


def _evals(
    run: RunFolder, files_by_name: Mapping[str, OutputFile], model: OutputFile
) -> dict[str, tuple[EvalResult, ...]]:
    """Entries of eval.json of the files of this run, by file. Raises RunFolderError where they are of other files."""
    if not run.file("eval.json").exists():
        return {}
    results = serialization.read_evals(run.file("eval.json"))
    by_file: dict[str, tuple[EvalResult, ...]] = {}
    for result in results:
        name = result.file
        if name not in files_by_name:
            continue
        if result.file_sha256 != files_by_name[name].sha256:
            raise RunFolderError(
                f"eval.json describes a different {name} than the one in this folder.",
                f"Run luq-gguf eval {run.file(name)} again, or delete eval.json.",
            )
        by_file[name] = (*by_file.get(name, ()), result)
    if not by_file:
        raise RunFolderError(
            f"eval.json describes {results[0].file}, not {model.name}.",
            f"Run luq-gguf eval {run.file(model.name)}, or delete eval.json.",
        )
    return by_file


def _speeds(run: RunFolder, files_by_name: Mapping[str, OutputFile]) -> tuple[Bench | None, dict[str, BenchRow]]:
    """bench.json, and its row of each file of this run in stock llama.cpp with the most threads. Raises as `_evals`
    does."""
    if not run.file("bench.json").exists():
        return None, {}
    with serialization.reading(run.file("bench.json"), "bench"):
        bench = serialization.read_bench(run.file("bench.json"))
        stock = [row for row in bench.rows_of_most_threads if not row.kernels]
    rows = {row.file: row for row in stock if row.file in files_by_name}
    for name, row in rows.items():
        if row.sha256 != files_by_name[name].sha256:
            raise RunFolderError(
                f"bench.json describes a different {name} than the one in this folder.",
                f"Run luq-gguf bench --run {run.path} again, or delete bench.json.",
            )
    return bench, rows


def companions(artifacts: RunArtifacts) -> Iterator[Path]:
    """Yield the small files that are published too, so that others can see what was done and reproduce it."""
    run = artifacts.run
    yield from (run.file(name) for name in ("profile.json", "plan.json", "tensor-types.txt"))
    yield from (run.file(name) for name in (recipe.NAME, *MEASUREMENTS) if run.file(name).exists())
    yield run.file("report.html")


def companions_of(artifacts: RunArtifacts, file: ModelFile) -> Iterator[Path]:
    """Yield the small files that are published with another model file of the folder."""
    yield artifacts.run.file(artifacts.imatrix.name)
    yield from (path for name in model_files.OWN if (path := file.folder / name).exists())
