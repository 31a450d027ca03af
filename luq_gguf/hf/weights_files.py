"""Decides which files of a checkpoint folder are its weights, by one rule for luq-gguf, transformers and llama.cpp.

In this order:

1. the shards that ``model.safetensors.index.json`` names, if all of them are there;
2. ``model.safetensors``;
3. a complete set of shards, ``model-00001-of-00003.safetensors`` and so on;
4. the only other safetensors file, or complete set of shards, whatever its name.

LoRA adapters (``adapter_model*``) and Mistral's own format (``consolidated*``) are never the weights. A folder that has
both 1 and 2, or two sets in 3 or 4, is refused: nothing tells which of them is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import json_input
from luq_gguf.core.errors import CheckpointError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_NEVER = ("adapter_model", "consolidated")
_DOWNLOAD = "Download the checkpoint again."


@dataclass(frozen=True)
class WeightsFiles:
    """The files that hold a checkpoint's weights. `weight_map` is the index where they were found by one: tensor ->
    file name. `usual` tells that transformers and the converter find the same files by themselves."""

    paths: tuple[Path, ...]
    weight_map: Mapping[str, str]
    usual: bool
    notes: tuple[str, ...] = ()


def find(folder: Path) -> WeightsFiles:
    """Return the weights of a checkpoint folder. Raises CheckpointError saying what is there instead."""
    _check_pickles(folder)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    ours = [name for name in names if not name.startswith(_NEVER)]
    aside = [name for name in names if name not in ours]
    notes = tuple(f"{name} is not read: {_why_not(folder, name)}" for name in aside)
    mapped = _weight_map(folder)
    indexed = sorted(set(mapped.values()))
    missing = [name for name in indexed if not (folder / name).is_file()]
    whole = WHOLE in ours and WHOLE not in indexed
    if indexed and not missing:
        if whole:
            raise CheckpointError(
                f"{folder.name} has two sets of weights: {WHOLE}, and the {_count(indexed)} that {INDEX} names.",
                f"Move {WHOLE} away to use the indexed files, or {INDEX} to use {WHOLE}.",
            )
        return WeightsFiles(tuple(folder / name for name in indexed), mapped, not aside, notes)
    if whole:
        if indexed:
            notes = (f"{INDEX} is not read: {missing[0]}, which it names, is not there, and {WHOLE} is", *notes)
        usual = not indexed and _matching(ours, "model") == {WHOLE} and not aside
        return WeightsFiles((folder / WHOLE,), {}, usual, notes)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder} lacks the shard {missing[0]}{more}, which its index names.", _DOWNLOAD)
    return WeightsFiles(tuple(folder / name for name in _unindexed(folder, ours)), {}, usual=False, notes=notes)


def _unindexed(folder: Path, names: list[str]) -> list[str]:
    """The only set of shards, or the only file; of names that begin with model where there are any."""
    candidates = sorted(_matching(names, "model")) or names
    if not candidates:
        raise _none(folder)
    sets: dict[tuple[str, int], list[str]] = {}
    for name in candidates:
        match = _SHARD.fullmatch(name)
        sets.setdefault((match["stem"], int(match["count"])) if match else (name, 1), []).append(name)
    if len(sets) > 1:
        first, second = (files[0] for files in list(sets.values())[:2])
        raise CheckpointError(
            f"{folder.name} has no {INDEX}, and several sets of weights: {first} and {second}.",
            "Move all but the model's own away.",
        )
    ((stem, count), files) = next(iter(sets.items()))
    if len(files) != count:
        wanted = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, min(count, 10_000) + 1)]
        absent = next((name for name in wanted if name not in files), files[0])
        raise CheckpointError(f"{folder} lacks the shard {absent}: it has {len(files)} of {count}.", _DOWNLOAD)
    return files


def _matching(names: list[str], start: str) -> set[str]:
    return {name for name in names if name.startswith(start)}


def _count(names: list[str]) -> str:
    return f"{len(names)} file{'s' * (len(names) > 1)}"


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file of the index; empty where there is none."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = json_input.read(path)
    except ValueError:
        raise CheckpointError(f"{path} is not valid JSON.", _DOWNLOAD) from None
    mapped = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapped, dict) or not mapped or not all(_is_plain(name) for name in mapped.values()):
        raise CheckpointError(f"{path} does not name any usable shards.", _DOWNLOAD)
    return {str(tensor): str(name) for tensor, name in mapped.items()}


def _is_plain(name: object) -> bool:
    """A file's plain name: an index may not send us to other folders, and a pickle would not be read as one."""
    return (
        isinstance(name, str)
        and Path(name).name == name
        and "\0" not in name
        and "\\" not in name
        and name.endswith(".safetensors")
    )


def _check_pickles(folder: Path) -> None:
    # llama.cpp's converter looks for model*.safetensors, and reads pytorch_model*.bin where it finds none.
    pickles = any(any(folder.glob(kind)) for kind in ("*.bin", "*.pt", "*.pth"))
    read_anyway = (folder / "mask_embedding.pt").exists()  # of one family of draft models
    whole = any(folder.glob("pytorch_model*.bin")) or not any(folder.glob("*.safetensors"))
    if read_anyway or (pickles and whole and not any(folder.glob("model*.safetensors"))):
        if not read_anyway and (base := adapter_base(folder)) and not any(folder.glob("pytorch_model*.bin")):
            raise adapter_alone(folder, base)
        raise CheckpointError(
            f"{folder} has {'some' if read_anyway else 'its'} weights only as pickles, which can run code when read.",
            "Use a safetensors version: many have one on the Hub, and save_pretrained writes one if you trust it.",
        )


def _none(folder: Path) -> CheckpointError:
    if base := adapter_base(folder):
        return adapter_alone(folder, base)
    if any(folder.glob("consolidated*.safetensors")):
        return CheckpointError(
            f"{folder.name} has its weights only in Mistral's own format (consolidated*.safetensors).",
            "Use the version of the model in the format of transformers: model*.safetensors.",
        )
    return CheckpointError(f"{folder} contains no *.safetensors files.", "Give the folder with the model's weights.")


def adapter_alone(folder: Path, base: str) -> CheckpointError:
    """Return the error for a folder that has a LoRA adapter of `base` and no model."""
    return CheckpointError(
        f"{folder.name} is a LoRA adapter of {base}, not a model.",
        "Merge it into its base model first (merge_and_unload of the package peft, then save_pretrained), and convert "
        "the merged folder.",
    )


def adapter_base(folder: Path) -> str | None:
    """Return the name of the model that a LoRA adapter in this folder belongs to; None where there is no adapter."""
    if not any(folder.glob("adapter_model*")) and not (folder / "adapter_config.json").is_file():
        return None
    try:
        config: Any = json_input.read(folder / "adapter_config.json")
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    return base if isinstance(base, str) and base else "another model"


def _why_not(folder: Path, name: str) -> str:
    if name.startswith("consolidated"):
        return "it is in Mistral's own format"
    return f"it is a LoRA adapter of {adapter_base(folder)}, and is not merged into the file"
