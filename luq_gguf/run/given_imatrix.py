"""Reads another publisher's importance matrix, and keeps a copy of what is for the model in the run folder.

The calibration's own imatrix.gguf stays as it is: a plan without the given one takes it again.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from luq_gguf.core import atomic
from luq_gguf.core.errors import CalibrationError, GGUFFileError, RunFolderError
from luq_gguf.core.given_imatrix import COPY, GivenImatrix
from luq_gguf.core.hashing import hash_of, sha256_of
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import imatrix, reader
from luq_gguf.method import importance
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder

STAGE = "imatrix"
_FEW = 20  # names in a sentence: other models have thousands
_LOCAL = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")  # how a path of somebody's machine begins


@dataclass(frozen=True)
class LoadedImatrix:
    """A given importance matrix in memory, and what plan.json says about it."""

    facts: GivenImatrix
    matrix: ImportanceMatrix
    chunk_size: int


def load(path: Path) -> LoadedImatrix:
    """Read an importance matrix from anywhere. Raises GGUFFileError where it is not one in GGUF, and says how to
    convert one in llama.cpp's older format."""
    if path.is_file() and _is_legacy(path):
        raise GGUFFileError(
            f"{path} is an importance matrix in llama.cpp's older .dat format, which luq-gguf does not read.",
            f"Convert it with `llama-imatrix -m MODEL.gguf --in-file {path.name} -o {path.stem}.gguf`, which does not "
            f"load the model, and give {path.stem}.gguf.",
        )
    try:
        matrix = imatrix.read(path)
    except GGUFFileError as error:
        raise GGUFFileError(error.message, "Give a GGUF file that llama-imatrix has written.") from None
    metadata = reader.read(path).metadata
    listed, size = metadata.get("imatrix.datasets"), metadata.get("imatrix.chunk_size")
    names = listed if isinstance(listed, list) else []
    datasets = tuple(name for text in names if isinstance(text, str) and (name := _without_folder(text)))
    facts = GivenImatrix(path.name, sha256_of(path), datasets or (path.name,), len(matrix.in_sum2))
    return LoadedImatrix(facts, matrix, size if isinstance(size, int) else 512)


def _is_legacy(path: Path) -> bool:
    """Whether a file begins as the older format does: the number of entries, then a name with its length in front."""
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8 or head[:4] == b"GGUF":
            return False
        n_entries, length = struct.unpack("<ii", head)
        name = file.read(length) if 0 < n_entries < 2**20 and 0 < length < 512 else b""
    return bool(name) and len(name) == length and name.isascii() and name.decode("ascii").isprintable()


def _without_folder(text: str) -> str:
    """A data set's name as it can be published: local paths lose their folders."""
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if _LOCAL.match(text) else text


def fitted(loaded: LoadedImatrix, source: reader.GGUFInfo, model: str, reporter: Reporter) -> LoadedImatrix:
    """Return what is for a model's matrices, and tell the reporter which entries are not. Raises CalibrationError where
    none is, or where a matrix of the same name has another shape: the file is of another model."""
    shapes = {tensor.name: tensor.shape for tensor in source.tensors if len(tensor.shape) > 1}
    file, entries = loaded.facts.file, loaded.matrix.in_sum2
    others = sorted(entries.keys() - shapes.keys())
    if len(others) == len(entries):
        raise CalibrationError(
            f"{file} has no entry for any matrix of {model}: its {len(others)} entries are {_listed(others)}.",
            "Give the importance matrix of this model.",
        )
    for name in sorted(entries.keys() & shapes.keys()):
        shape = shapes[name]
        here, there = (shape[2] if len(shape) > 2 else 1, shape[0]), entries[name].shape
        if here != there:
            what = f"{there[0]} x {there[1]}" if there[0] > 1 or here[0] > 1 else str(there[1])
            ours = f"{here[0]} x {here[1]}" if there[0] > 1 or here[0] > 1 else str(here[1])
            raise CalibrationError(
                f"{file} is of another model than {model}: it has {what} columns of {name}, which has {ours}.",
                "Give the importance matrix of this model.",
            )
    if others:
        reporter.info(
            f"{len(others)} of the {len(entries)} entries of {file} are not for matrices of {model} and are left out: "
            f"{_listed(others)}"
        )
    matrix = replace(
        loaded.matrix,
        in_sum2={name: sums for name, sums in entries.items() if name in shapes},
        counts={name: counts for name, counts in loaded.matrix.counts.items() if name in shapes},
    )
    return replace(loaded, matrix=matrix, facts=replace(loaded.facts, n_matrices=len(matrix.in_sum2)))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def store(run: RunFolder, loaded: LoadedImatrix) -> None:
    """Write the run folder's copy, in which no column counts for nothing (`importance.floored`) and no data set is
    named by a local path."""

    def make() -> None:
        with atomic.whole(run.file(COPY)) as part:
            imatrix.write(part, importance.floored(loaded.matrix), loaded.facts.datasets, loaded.chunk_size)
        run.update(imatrix=loaded.facts.to_json())

    run.run_stage(STAGE, hash_of(loaded.facts.to_json()), [COPY], make)


def stored(run: RunFolder, facts: GivenImatrix) -> LoadedImatrix:
    """Return the copy of the importance matrix that a plan names. Raises RunFolderError where it is another now."""
    record = run.read()["stages"].get(STAGE, {})
    if record.get("key") != hash_of(facts.to_json()) or run.changed(STAGE):
        raise RunFolderError(
            f"plan.json takes importance from {facts.file}, but its copy {COPY} is missing or is not the same.",
            f"Add --imatrix with {facts.file}.",
        )
    return LoadedImatrix(facts, imatrix.read(run.file(COPY)), 512)


def recorded(run: RunFolder) -> LoadedImatrix | None:
    """Return the importance matrix that a run folder was given last; None where it has none. Raises RunFolderError
    where its copy is another now."""
    if STAGE not in run.read()["stages"]:
        return None
    with serialization.reading(run.file("run.json"), "plan"):
        facts = msgspec.convert(run.read()["imatrix"], GivenImatrix)
    return stored(run, facts)
