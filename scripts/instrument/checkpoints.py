"""Weights to begin with, and the checkpoint that training leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from instrument.prepare import write_weights
from luq_gguf.core.atomic import write_text
from luq_gguf.core.errors import LuqError

WEIGHTS, RECORD = "model.safetensors", "training.json"
_BY_TOKEN = ("embed_tokens.weight", "lm_head.weight")  # their rows are the vocabulary's


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights in float32. Raises LuqError where it has none."""
    path = folder / WEIGHTS
    if not path.exists():
        raise LuqError(f"{folder} has no {WEIGHTS}.", "Make a checkpoint with the command prepare.")
    return {name: weight.float() for name, weight in load_file(path).items()}


def take_over(weights: Mapping[str, Tensor], folder: Path, other: Path) -> int:
    """Copy what another checkpoint has of the same name and shape into these weights of `folder`, and return how many
    tensors that are. A decoder fits the other architecture's, too; rows of the vocabulary go by their tokens.

    Raises LuqError where nothing fits.
    """
    theirs = {_without_model(name): weight for name, weight in read_weights(other).items()}
    mine_of, theirs_of = vocabulary_of(folder), vocabulary_of(other)
    pairs = [(row, theirs_of[token]) for token, row in mine_of.items() if token in theirs_of]
    to, of = torch.tensor(pairs).T
    taken = 0
    for name, weight in weights.items():
        source = theirs.get(_without_model(name))
        if source is None or source.shape != weight.shape:
            continue
        taken += 1
        if name.endswith(_BY_TOKEN):
            weight[to] = source[of]
        else:
            weight.copy_(source)
    if not taken:
        raise LuqError(f"No tensor of {other} fits {folder}.", "Begin with a checkpoint of the same widths.")
    return taken


def _without_model(name: str) -> str:
    return name.removeprefix("language_model.")  # before a LLaVA decoder's names


def vocabulary_of(folder: Path) -> dict[str, int]:
    saved = json.loads((folder / "tokenizer.json").read_text())
    return saved["model"]["vocab"] | {token["content"]: token["id"] for token in saved["added_tokens"]}


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return twelve digits that differ where weights do."""
    told = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        told.update(name.encode())
        told.update(weight.contiguous().numpy().tobytes())
    return told.hexdigest()[:12]


def rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they are saved: in bfloat16, on the CPU."""
    return {name: weight.detach().to("cpu", torch.bfloat16) for name, weight in weights.items()}


def write_checkpoint(out: Path, folder: Path, weights: Mapping[str, Tensor], record: Mapping[str, object]) -> None:
    """Write a checkpoint in bfloat16 with the configuration, tokenizer and processor of `folder`, and last of all
    `record` as training.json."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".model") and path.name != RECORD:
            shutil.copyfile(path, out / path.name)
    config = json.loads((out / "config.json").read_text())
    write_text(out / "config.json", json.dumps(config | {"dtype": "bfloat16"}, indent=2, sort_keys=True) + "\n")
    write_weights(out / WEIGHTS, rounded(weights))
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
