"""Writes recipe.json: how llama.cpp's own programs make a LUQ file of its checkpoint, so that others can check it.

llama.cpp's converter and llama-quantize are deterministic: the commands below, in these versions and with files of
these hashes, write the same bytes on any machine whose build computes alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from luq_gguf._version import __version__
from luq_gguf.core import checkpoint_view, paths
from luq_gguf.core.hashing import sha256_of
from luq_gguf.core.types import Plan
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import converter, converter_child, quantize, tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT
from luq_gguf.run import given_imatrix, provenance, serialization
from luq_gguf.run.session import Session

NAME = "recipe.json"
TYPES = "tensor-types.txt"


def write(
    session: Session, plan: Plan, name: str, f16: str, entries: Mapping[str, str | int], folder: Path, stage: str
) -> None:
    """Write recipe.json for the file `name` of a stage, made from the 16-bit file `f16`, beside its tensor-types.txt.

    Commands are lists of arguments that run in the folder of the `inputs`; CHECKPOINT stands for the checkpoint's
    folder. A GGUF file in its place is not converted. `read_differently` says what has to be changed in it before,
    which is seldom anything, and `view` in which form the converter is shown it, where that is another: its command
    needs luq-gguf then.
    """
    run, checkpoint, pin, file = session.run, session.spec.checkpoint, tools.pin(), session.spec.file
    record = run.read()
    given, imatrix_name = session.spec.given, session.spec.imatrix_name
    inputs = {imatrix_name: _digest(session, imatrix_name)}
    if (folder / TYPES).is_file():
        inputs[TYPES] = sha256_of(folder / TYPES)
    content = {
        "checkpoint": {
            "name": file.path.name if file else checkpoint.folder.name,
            "hub_id": provenance.base_model(record),
            "revision": checkpoint.revision,
            CHECKPOINT: entries[CHECKPOINT],
            "read_differently": [*checkpoint.notes, *_changed_files(checkpoint.folder)],
        }
        | ({"sha256": shards.sha256(file.path)} if file else {})
        | ({"view": checkpoint_view.to_json(checkpoint.view)} if checkpoint.view else {}),
        "versions": {
            "luq-gguf": __version__,
            "llama.cpp": f"{pin['package']} {pin['version']}",
            "llama.cpp sha256": pin["sha256"],
            "cmake_args": list(pin["cmake_args"]),
        },
        "inputs": inputs,
        **({"imatrix": given.facts.to_json()} if given else {}),
        "commands": {
            **({} if file else {"convert": _conversion(checkpoint, f16)}),
            "quantize": [
                "llama-quantize",
                *(["--allow-requantize"] if file and file.is_quantized else []),
                *quantize.arguments(TYPES, f16, name, plan.high, entries, imatrix_name),
            ],
        },
        "outputs": {output: fact["sha256"] for made in (stage, "mmproj") for output, fact in run.outputs(made).items()},
    }
    serialization.write_json(folder / NAME, content)


def _conversion(checkpoint: Checkpoint, f16: str) -> list[str]:
    """The command that makes the 16-bit file."""
    arguments = converter.arguments("CHECKPOINT", f16, checkpoint.name, checkpoint.converter_options)
    return [*_shown(checkpoint), *arguments]


def _shown(checkpoint: Checkpoint) -> list[str]:
    """The program that converts: with a view of the text half, ours runs llama.cpp's and shows it the checkpoint so."""
    ours = ["python", "-m", converter_child.__name__, NAME] if checkpoint_view.of_text(checkpoint.view) else []
    return [*ours, "convert_hf_to_gguf.py"]


def _changed_files(folder: Path) -> list[str]:
    """Which files of a folder that the converter is shown in a checkpoint's place (hf/linked_folder.py) are not its
    own."""
    if not folder.is_relative_to(paths.cache("folders")):
        return []
    changed = (path for path in sorted(folder.iterdir()) if not path.is_symlink())
    return [f"{path.name} is as luq-gguf writes it for the converter: sha256 {sha256_of(path)}" for path in changed]


def _digest(session: Session, name: str) -> str:
    run = session.run
    outputs = run.outputs("profile") | run.outputs(given_imatrix.STAGE)
    recorded = outputs.get(name, {}).get("sha256")
    return str(recorded or sha256_of(run.file(name)))
