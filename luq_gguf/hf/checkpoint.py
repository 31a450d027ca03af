"""Open a checkpoint: a local folder or a Hub id, checked before anything heavy is done with it.

Only safetensors are accepted: a pickle can run code when it is read. Headers are read, weights are not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core import json_input
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import download

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_HEADER_LIMIT = 32 * 1024 * 1024  # a third of what the safetensors library takes, and room for 250 000 tensors
# Bytes of an element; of a type that is not known here the room is not checked.
_ELEMENT = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ELEMENT |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
# What config.json calls the number of layers of one of its halves.
_CHEAP = 1000  # layers or experts that take no time, if a config claims so many without having them
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth", "depths", "encoder_layers")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are complete. For every tensor, `shapes` has its shape in the safetensors header,
    `sizes` its bytes there, and `shards` the file that contains it. `revision` is the commit of a checkpoint from the
    Hub."""

    folder: Path
    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    shards: dict[str, Path]
    n_bytes: int
    fingerprint: str
    trust_remote_code: bool = False
    revision: str | None = None

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @property
    def has_vision(self) -> bool:
        return "vision_config" in self.config

    @property
    def identity(self) -> str:
        """Return a hash of config and tensor shapes that is the same on every machine; `fingerprint` also depends on
        file times."""
        return hashlib.sha256(json.dumps([self.config, self.shapes], sort_keys=True).encode()).hexdigest()


def open_checkpoint(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Checkpoint:
    """Check a local folder, or download a Hub id's files (at a commit, or the newest) and check them.

    Raises CheckpointError, and what `download.fetch` raises.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        given_name = Path(os.path.abspath(folder)).name  # a link's own
        return _open_folder(folder.resolve(), trust_remote_code=trust_remote_code, name=given_name)
    if folder.exists():
        raise CheckpointError(
            f"{model} is a file, not a checkpoint folder.", "Give the folder with config.json and *.safetensors."
        )
    if not _HUB_ID.match(model):
        raise CheckpointError(
            f"{model}: no such folder.", "Give a checkpoint folder or a Hub id such as Qwen/Qwen2.5-VL-7B-Instruct."
        )

    def check(fetched: Path) -> None:
        _check_config(_read_json(fetched / "config.json", fetched), fetched, trust_remote_code=trust_remote_code)

    snapshot = download.fetch(model, revision, check, code=trust_remote_code)
    return _open_folder(
        snapshot.folder, trust_remote_code=trust_remote_code, name=model.split("/")[1], revision=snapshot.revision
    )


def _open_folder(
    folder: Path, *, trust_remote_code: bool, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    config = _read_json(folder / "config.json", folder)
    _check_config(config, folder, trust_remote_code=trust_remote_code)
    shards = _shards(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    holders: dict[str, Path] = {}
    for shard in shards:
        for tensor, entry in safetensors_entries(shard)[1].items():
            shapes[tensor] = tuple(entry["shape"])
            sizes[tensor] = entry["data_offsets"][1] - entry["data_offsets"][0]
            holders[tensor] = shard
    _check_index(folder, shapes)
    _check_counts(config, shapes, folder)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return Checkpoint(
        folder=folder,
        name=name or folder.name,
        config=config,
        shapes=shapes,
        sizes=sizes,
        shards=holders,
        n_bytes=sum(shard.stat().st_size for shard in shards),
        fingerprint=digest.hexdigest(),
        trust_remote_code=trust_remote_code,
        revision=revision,
    )


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {path.name}.",
            "Give the folder with config.json and *.safetensors.",
        )
    try:
        loaded = json_input.read(path)
    except ValueError:
        raise CheckpointError(f"{path} is not valid JSON.", "Download the checkpoint again.") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} does not contain a JSON object.", "Download the checkpoint again.")
    return loaded


def _check_config(config: dict[str, Any], folder: Path, *, trust_remote_code: bool) -> None:
    architectures = config.get("architectures")
    named = isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    if not named or not architectures or not isinstance(config.get("model_type"), str):
        raise CheckpointError(
            f"{folder}/config.json does not name an architecture.",
            "It needs `architectures` and `model_type`, as save_pretrained writes them.",
        )
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config["model_type"] in CONFIG_MAPPING or (trust_remote_code and "auto_map" in config):
        return
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder.name} needs code from its repository to load ({config['model_type']}).",
            "If you have read that code and trust it, add --trust-remote-code.",
        )
    raise CheckpointError(
        f"transformers {__version__} does not know the architecture {architectures[0]} ({config['model_type']}).",
        "Upgrade transformers, or choose a model that it knows.",
    )


def _check_counts(config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """transformers and the converter make all layers, experts and tokens that a config claims, so it may not claim more
    than its tensors can hold: a layer has a tensor at least, a token a row, an expert one or the other. Halves that a
    model does not use keep their defaults, so what costs nothing is let through."""
    longest = max((n for shape in shapes.values() for n in shape), default=0)
    most = dict.fromkeys(_LAYER_COUNTS, max(_CHEAP, len(shapes)))
    most |= dict.fromkeys(_EXPERT_COUNTS, max(_CHEAP, len(shapes), longest))
    most["vocab_size"] = max(1000 * _CHEAP, longest)
    level: list[dict[str, Any]] = [config]
    while level:
        for name, value in level.pop().items():
            if isinstance(value, dict):
                level.append(value)
            elif name in most and isinstance(value, int | float) and not 0 <= value <= most[name]:
                raise CheckpointError(
                    f"{folder.name}/config.json claims {name} {value}, but its tensors have room for {most[name]}.",
                    "Download the checkpoint again.",
                )


def _shards(folder: Path) -> list[Path]:
    # llama.cpp's converter looks for model*.safetensors, and reads pytorch_model*.bin where it finds none.
    pickles = any(any(folder.glob(kind)) for kind in ("*.bin", "*.pt", "*.pth"))
    read_anyway = (folder / "mask_embedding.pt").exists()  # of one family of draft models
    if read_anyway or (pickles and not any(folder.glob("model*.safetensors"))):
        raise CheckpointError(
            f"{folder} has {'some' if read_anyway else 'its'} weights only as pickles, which can run code when read.",
            "Use a safetensors version: many have one on the Hub, and save_pretrained writes one if you trust it.",
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapped = _read_json(index, folder).get("weight_map")
        given = list(mapped.values()) if isinstance(mapped, dict) else []
        if not given or not all(isinstance(name, str) and _is_shard(name) for name in given):
            raise CheckpointError(f"{index} does not name any usable shards.", "Download the checkpoint again.")
        names = sorted(set(given))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{folder} lacks the shard {missing[0]}{more}, which its index names.", "Download the checkpoint again."
            )
        return [folder / name for name in names]
    unindexed = sorted(folder.glob("*.safetensors"))
    if not unindexed:
        raise CheckpointError(f"{folder} contains no *.safetensors files.", "Give the folder with the model's weights.")
    return unindexed


def _is_shard(name: str) -> bool:
    """A file's plain name: an index may not send us to other folders, and a pickle would not be read as one."""
    return Path(name).name == name and "\0" not in name and "\\" not in name and name.endswith(".safetensors")


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors header. Raises CheckpointError as `safetensors_entries` does."""
    return {name: tuple(entry["shape"]) for name, entry in safetensors_entries(path)[1].items()}


def safetensors_entries(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return where the data begins, and every tensor's dtype, shape and data_offsets, from a safetensors header, after
    checking that the tensors follow each other without gaps and fill the file.

    Raises CheckpointError where they do not, and where the header is not valid.
    """
    size = path.stat().st_size
    broken = CheckpointError(f"{path.name} is truncated or damaged.", "Download that file again.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise broken
        try:
            header = json_input.parse(file.read(length), _HEADER_LIMIT, unique=True)
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            shapes = {name: _whole_numbers(entry["shape"]) for name, entry in entries.items()}
            rooms = sorted((*_whole_numbers(entry["data_offsets"]), name) for name, entry in entries.items())
            end = 0
            for start, after, name in rooms:
                element = _ELEMENT.get(entries[name]["dtype"])
                if start != end or after < start or (element and after - start != element * math.prod(shapes[name])):
                    raise ValueError(name)
                end = after
        except (ValueError, KeyError, TypeError, AttributeError):
            raise broken from None
    if 8 + length + end != size:
        raise broken
    return 8 + length, entries


def _whole_numbers(given: Any) -> tuple[int, ...]:
    """Raises ValueError for anything but a short list of natural numbers: products of those stay small."""
    if not isinstance(given, list) or len(given) > 16 or not all(type(n) is int and 0 <= n < 2**63 for n in given):
        raise ValueError("not a list of natural numbers")
    return tuple(given)


def _check_index(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        absent = sorted(set(_read_json(index, folder)["weight_map"]) - set(shapes))
        if absent:
            raise CheckpointError(
                f"The shards of {folder.name} lack the tensor {absent[0]}, which the index names.",
                "Download the checkpoint again.",
            )
