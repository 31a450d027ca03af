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
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from luq_gguf.core import json_input
from luq_gguf.core.checkpoint_view import View
from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.hashing import content_of, contents_of, hash_of
from luq_gguf.hf import (
    checkpoint_views,
    config_facts,
    download,
    leftovers,
    linked_folder,
    multi_token,
    tokenizer_files,
    weights_files,
)
from luq_gguf.hf.weights_files import WeightsFiles

_SNAPSHOT = re.compile(r"(?:^|/)models--(?:[\w.-]+?--)?(?P<name>[\w.-]+)/snapshots/[^/]+(?:/|$)")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_HEADER_LIMIT = 32 * 1024 * 1024  # a third of what the safetensors library takes, and room for 250 000 tensors
# Configuration, templates, tokenizers in all their formats, code.
_SMALL = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".bpe", ".vocab")
# Bytes of an element; of a type that is not known here the room is not checked.
_ELEMENT = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ELEMENT |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
# What config.json calls the number of layers of one of its halves.
_CHEAP = 1000  # layers or experts that take no time, if a config claims so many without having them
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth", "depths", "encoder_layers")


class UnknownModelError(CheckpointError):
    """transformers does not know this `architecture`, or not without code of the checkpoint's own."""

    def __init__(self, message: str, hint: str, architecture: str) -> None:
        super().__init__(message, hint)
        self.architecture = architecture


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are complete. For every tensor, `shapes` has its shape in the safetensors header,
    `sizes` its bytes there, and `shards` the file that contains it. `outline` is a hash of all that is read but the
    weights: the small files, and the headers of the shards. `revision` is the commit of a checkpoint from the Hub.
    `unused` are tensors of the files that are left out, `view` is the form in which the converter is shown the others,
    `converter_options` are what it must be told of the text half, and `notes` are sentences about what was not read as
    it is."""

    folder: Path
    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    shards: dict[str, Path]
    n_bytes: int
    outline: str
    trust_remote_code: bool = False
    revision: str | None = None
    unused: frozenset[str] = frozenset()
    view: View = ()
    converter_options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @property
    def has_vision(self) -> bool:
        return "vision_config" in self.config

    @property
    def identity(self) -> str:
        """Return a hash of config and tensor shapes."""
        return hashlib.sha256(json.dumps([self.config, self.shapes], sort_keys=True).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the contents of everything that is read, the same on every machine. The weights are read for
        it once: a run that asks for it reads all of them several times anyway."""
        shards = sorted(set(self.shards.values()))
        contents = zip((shard.name for shard in shards), contents_of(shards), strict=True)
        return hash_of(self.outline, list(contents))

    @property
    def described(self) -> str:
        """Return a hash of what the converter writes about the checkpoint beside what it holds: names and its card."""
        card = self.folder / "README.md"
        return hash_of(self.name, self.folder.name, content_of(card) if card.is_file() else None)


def open_checkpoint(
    model: str, *, trust_remote_code: bool = False, revision: str | None = None, subfolder: str | None = None
) -> Checkpoint:
    """Check a local folder, or download a Hub id's files (at a commit, or the newest) and check them; `subfolder` is
    the folder in either that holds the checkpoint.

    Raises CheckpointError, and what `download.fetch` raises.
    """
    _check_subfolder(subfolder)
    folder = Path(model).expanduser()
    if folder.is_dir():
        name = _name_of(folder) or (None if subfolder else Path(os.path.abspath(folder)).name)  # a link's own
        return _open_folder(_inside(folder, subfolder), trust_remote_code=trust_remote_code, name=name)
    if folder.exists():
        hint = "Give the folder with config.json and *.safetensors."
        if folder.suffix == ".gguf":
            hint += " A GGUF file is quantized by luq-gguf plan RUN --model FILE, and luq-gguf quantize RUN."
        raise CheckpointError(f"{model} is a file, not a checkpoint folder.", hint)
    if not _HUB_ID.match(model):
        raise CheckpointError(
            f"{model}: no such folder.", "Give a checkpoint folder or a Hub id such as Qwen/Qwen2.5-VL-7B-Instruct."
        )

    def check(fetched: Path) -> None:
        _check_config(_read_json(fetched / "config.json", fetched), fetched, trust_remote_code=trust_remote_code)

    snapshot = download.fetch(model, revision, check, code=trust_remote_code, subfolder=subfolder)
    return _open_folder(
        snapshot.folder, trust_remote_code=trust_remote_code, name=model.split("/")[1], revision=snapshot.revision
    )


def _check_subfolder(subfolder: str | None) -> None:
    if subfolder is not None and (Path(subfolder).is_absolute() or not {"..", ""}.isdisjoint(Path(subfolder).parts)):
        raise CheckpointError(
            f"--subfolder {subfolder} is not a folder inside the model.", "Give its path from the model's folder."
        )


def _inside(folder: Path, subfolder: str | None) -> Path:
    inner = folder / subfolder if subfolder else folder
    if not inner.is_dir():
        raise CheckpointError(f"{folder} has no folder {subfolder}.", "Check the spelling of --subfolder.")
    return inner.resolve()


def _name_of(folder: Path) -> str | None:
    """A model's name where its folder is called by a commit: in the Hub client's cache, which has
    models--OWNER--NAME/snapshots/COMMIT."""
    match = _SNAPSHOT.search(str(folder.absolute()))
    return match["name"] if match else None


def _open_folder(
    folder: Path, *, trust_remote_code: bool, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    base = weights_files.adapter_base(folder)
    if base and not (folder / "config.json").is_file():
        raise weights_files.adapter_alone(folder, base)
    config = _read_json(folder / "config.json", folder)
    _check_config(config, folder, trust_remote_code=trust_remote_code)
    files = weights_files.find(folder)
    whole_headers = {shard: safetensors_entries(shard) for shard in files.paths}
    entries = {shard: shard_entries for shard, (_, shard_entries) in whole_headers.items()}
    shards, holders = _holders(folder, files, entries)
    headers = {tensor: entries[shard][tensor] for tensor, shard in holders.items()}
    shapes = {tensor: tuple(entry["shape"]) for tensor, entry in headers.items()}
    _check_counts(config, shapes, folder)
    leftovers.check_merged(folder.name, shapes)
    config, changed = leftovers.without_quantization(config, {str(entry["dtype"]) for entry in headers.values()})
    leftovers.check_types(folder.name, config, headers)
    config, completed = config_facts.complete(config)
    tokenizer = tokenizer_files.changes(folder, tokenizer_files.embedding_rows(shapes))
    head = leftovers.tied_head(folder.name, config, headers, holders)
    multi = multi_token.agreeing(config, shapes)
    texts = {"config.json": json.dumps(multi.config)} if changed or completed or multi.config is not config else {}
    texts |= tokenizer.contents
    usual = files.usual and shards == files.paths and (not files.weight_map or set(files.weight_map) == set(shapes))
    shown = folder
    if texts or not usual:
        without = leftovers.QUANTIZATION_FILES if changed else ()
        shown = linked_folder.make(folder, shards, holders, texts, without)
    used = {tensor: entry for tensor, entry in headers.items() if tensor not in head.unused}
    return Checkpoint(
        folder=shown,
        name=name or folder.name,
        config=multi.config,
        shapes={tensor: shapes[tensor] for tensor in used},
        sizes={tensor: entry["data_offsets"][1] - entry["data_offsets"][0] for tensor, entry in used.items()},
        shards={tensor: holders[tensor] for tensor in used},
        n_bytes=sum(shard.stat().st_size for shard in shards),
        outline=_outline(shown, {shard.name: header for shard, header in whole_headers.items()}),
        trust_remote_code=trust_remote_code,
        revision=revision,
        unused=head.unused,
        view=checkpoint_views.find(config, shapes, head.unused),
        converter_options=multi.options,
        notes=(*files.notes, *changed, *completed, *multi.notes, *tokenizer.notes, *head.notes),
    )


def _holders(
    folder: Path, files: WeightsFiles, entries: Mapping[Path, Mapping[str, Any]]
) -> tuple[tuple[Path, ...], dict[str, Path]]:
    """The shards in an order in which the last one that has a tensor is the one that the index names for it, or else
    the last; and every tensor's shard."""
    named = {tensor: folder / name for tensor, name in files.weight_map.items()}
    absent = sorted(tensor for tensor, shard in named.items() if tensor not in entries[shard])
    if absent:
        raise CheckpointError(
            f"The shards of {folder.name} lack the tensor {absent[0]}, which the index names.",
            "Download the checkpoint again, or save it again with save_pretrained, which writes a new index.",
        )
    holders = {tensor: shard for shard in files.paths for tensor in entries[shard]} | named
    before: dict[Path, set[Path]] = {shard: set() for shard in files.paths}
    for shard in files.paths:
        for tensor in entries[shard]:
            if holders[tensor] != shard:
                before[holders[tensor]].add(shard)
    if not any(before[shard] - set(files.paths[:n]) for n, shard in enumerate(files.paths)):
        return files.paths, holders
    try:
        return tuple(TopologicalSorter(before).static_order()), holders
    except CycleError:
        raise CheckpointError(
            f"The shards of {folder.name} hold the same tensors, and the index takes some from each.",
            "Save the checkpoint again with save_pretrained.",
        ) from None


def _outline(folder: Path, headers: Mapping[str, object]) -> str:
    """Hash what transformers and the converter may read of a checkpoint, but for its weights, and whatever its times:
    pictures, notes and files that a run leaves there do not matter."""
    small = [path for path in folder.iterdir() if path.suffix in _SMALL and path.is_file()]  # a link may lead nowhere
    small += (folder / "additional_chat_templates").glob("*.jinja")
    return hash_of(headers, sorted((str(path.relative_to(folder)), content_of(path)) for path in small))


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
        raise UnknownModelError(
            f"{folder.name} needs code from its repository to load ({config['model_type']}).",
            "If you have read that code and trust it, add --trust-remote-code.",
            architectures[0],
        )
    raise UnknownModelError(
        f"transformers {__version__} does not know the architecture {architectures[0]} ({config['model_type']}).",
        "Upgrade transformers, or choose a model that it knows.",
        architectures[0],
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
