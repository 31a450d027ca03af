"""Open a checkpoint: a local folder or a Hub id, checked before anything heavy is done with it.

Only safetensors are accepted: a pickle can run code when it is read. Headers are read, weights are not.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.errors import CheckpointError
from luq_gguf.hub import download

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_HEADER_LIMIT = 100 * 1024 * 1024  # the limit of the safetensors library


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are complete. Of every tensor: `shapes`, its shape in the safetensors header;
    `shards`, the file that holds it. `revision` is the commit of one that was fetched from the Hub."""

    folder: Path
    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
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
        """A hash of config and tensors' shapes, the same on every machine; `fingerprint` knows times of files."""
        return hashlib.sha256(json.dumps([self.config, self.shapes], sort_keys=True).encode()).hexdigest()


def open_checkpoint(model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Checkpoint:
    """Check a local folder, or fetch a Hub id's files (at a commit, or the newest) and check them.

    Raises CheckpointError, and what `download.fetch` raises.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _open_folder(folder.resolve(), trust_remote_code)
    if folder.exists():
        raise CheckpointError(
            f"{model} is a file, not a checkpoint folder.", "Give the folder with config.json and *.safetensors."
        )
    if not _HUB_ID.match(model):
        raise CheckpointError(
            f"{model}: no such folder.", "Give a checkpoint folder or a Hub id such as Qwen/Qwen2.5-VL-7B-Instruct."
        )

    def check(fetched: Path) -> None:
        _check_config(_read_json(fetched / "config.json", fetched), fetched, trust_remote_code)

    found = download.fetch(model, revision, check, code=trust_remote_code)
    return _open_folder(found.folder, trust_remote_code, name=model.split("/")[1], revision=found.revision)


def _open_folder(
    folder: Path, trust_remote_code: bool, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    config = _read_json(folder / "config.json", folder)
    _check_config(config, folder, trust_remote_code)
    shards = _shards(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    holders: dict[str, Path] = {}
    for shard in shards:
        found = safetensors_shapes(shard)
        shapes |= found
        holders |= dict.fromkeys(found, shard)
    _check_index(folder, shapes)
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
        shards=holders,
        n_bytes=sum(shard.stat().st_size for shard in shards),
        fingerprint=digest.hexdigest(),
        trust_remote_code=trust_remote_code,
        revision=revision,
    )


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no {path.name}.", "Give the folder with config.json and *.safetensors."
        )
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is not valid JSON.", "Fetch the checkpoint again.") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds no JSON object.", "Fetch the checkpoint again.")
    return loaded


def _check_config(config: dict[str, Any], folder: Path, trust_remote_code: bool) -> None:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(config.get("model_type"), str):
        raise CheckpointError(
            f"{folder}/config.json names no architecture.",
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
        "Upgrade transformers, or choose a model it knows.",
    )


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index, folder).get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names no usable shards.", "Fetch the checkpoint again.")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{folder} lacks the shard {missing[0]}{more}, which its index names.", "Fetch the checkpoint again."
            )
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found and (list(folder.glob("*.bin")) or list(folder.glob("*.pt")) or list(folder.glob("*.pth"))):
        raise CheckpointError(
            f"{folder} has its weights as pickles only, which can run code when read.",
            "Use a safetensors version of the model (many have one on the Hub; or save_pretrained where you trust it).",
        )
    if not found:
        raise CheckpointError(f"{folder} holds no *.safetensors.", "Give the folder with the model's weights.")
    return found


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from a safetensors header, after checking that the file is as long as its header says."""
    size = path.stat().st_size
    broken = CheckpointError(f"{path.name} is truncated or damaged.", "Fetch that file again.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise broken
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            shapes = {name: tuple(int(n) for n in entry["shape"]) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise broken from None
    if 8 + length + end != size:
        raise broken
    return shapes


def _check_index(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        absent = sorted(set(_read_json(index, folder)["weight_map"]) - set(shapes))
        if absent:
            raise CheckpointError(
                f"The shards of {folder.name} lack the tensor {absent[0]}, which the index names.",
                "Fetch the checkpoint again.",
            )
