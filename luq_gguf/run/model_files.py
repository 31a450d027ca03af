"""The model files of a run folder, of which there may be several sizes.

What belongs to one of them alone lies in files/NAME/: plan.json, tensor-types.txt and recipe.json. Its record in
run.json is a stage of its own, named after the file. Beside these, the stage `quantize` and the files of the same
names at the top of the folder are those of the LUQ file that was made last.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import RunFolderError
from luq_gguf.core.types import STOCK, Plan
from luq_gguf.llamacpp import labels
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method import tensor_types
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder

FOLDER = "files"
OWN = ("plan.json", "tensor-types.txt", "recipe.json")
LAST = "quantize"
_STAGE = "file "


@dataclass(frozen=True)
class ModelFile:
    """A model file that was made as planned, by its record in run.json; `folder` has what belongs to it alone."""

    name: str
    n_bytes: int
    sha256: str
    plan: Plan
    folder: Path

    @property
    def is_stock(self) -> bool:
        """Whether it is llama-quantize's own mix."""
        return self.plan.ranking == STOCK


def stage_of(name: str) -> str:
    """Return the name of a model file's stage."""
    return _STAGE + name


def is_stage(stage: str) -> bool:
    """Return whether a stage is that of a model file."""
    return stage.startswith(_STAGE)


def folder_of(run: RunFolder, name: str) -> Path:
    """Return the folder of what belongs to a model file alone."""
    return run.file(FOLDER) / labels.folder_of(name)


def plan_file(run: RunFolder, name: str) -> Path:
    """Return the plan.json that a model file was made by: its own, or the folder's, as older versions have it."""
    own = folder_of(run, name) / OWN[0]
    return own if own.is_file() else run.file(OWN[0])


def names(run: RunFolder) -> list[str]:
    """Return the names of the model files, in the order in which they were first made."""
    stages = run.read()["stages"]
    listed = [stage.removeprefix(_STAGE) for stage in stages if is_stage(stage)]
    return [*listed, *(name for name in run.outputs(LAST) if name not in listed)]  # as older versions record it


def listed(run: RunFolder) -> tuple[ModelFile, ...]:
    """Return the model files, the smallest first. Raises RunFolderError where a plan is missing or damaged."""
    files = []
    for name in names(run):
        fact = run.outputs(stage_of(name)).get(name) or run.outputs(LAST)[name]
        path = plan_file(run, name)
        files.append(ModelFile(name, fact["n_bytes"], fact["sha256"], serialization.read_plan(path), path.parent))
    return tuple(sorted(files, key=lambda file: (file.n_bytes, file.name)))


def adopt(run: RunFolder) -> None:
    """Give the file that was made last what belongs to it, if it has nothing of its own yet: before another plan takes
    the place of its plan.json. A file that this is not the plan of stays as it is, without a record of its own."""
    for name in run.outputs(LAST):
        if run.outputs(stage_of(name)) or not run.file(name).is_file():
            continue
        try:
            plan = serialization.read_plan(run.file(OWN[0]))
        except RunFolderError:
            continue
        if not tensor_types.differences(plan.tensor_types, reader.read(run.file(name)).types):
            keep(run, name)


def keep(run: RunFolder, name: str) -> None:
    """Keep the record of the file that was made last, and what belongs to it."""
    folder = folder_of(run, name)
    folder.mkdir(parents=True, exist_ok=True)
    for own in OWN:
        if run.file(own).is_file():
            atomic.write_text(folder / own, run.file(own).read_text())
    stages = run.read()["stages"]
    if stages.get(stage_of(name)) != stages[LAST]:
        run.update(stages=stages | {stage_of(name): stages[LAST]})


def forget(run: RunFolder, name: str) -> None:
    """Drop a file's record and what belongs to it; the file itself stays."""
    run.forget(stage_of(name))
    shutil.rmtree(folder_of(run, name), ignore_errors=True)
