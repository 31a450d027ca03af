"""A checkpoint in parts that are checkpoints of their own, for a disk without room for a second whole model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from luq_gguf.core import file_ranges
from luq_gguf.hf.checkpoint import Checkpoint, safetensors_entries

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_OTHER_HALF = re.compile(r"^(?:model\.)?(?:visual|vision_\w+|multi_modal_\w+|mm_\w+|audio_\w+)\.")
_LARGEST = 16  # a part has at most one 16th of the model, what cannot be parted, or _SMALLEST
_SMALLEST = 2**28  # bytes: a start of the converter takes some seconds
_NOT_LINKED = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def slices(checkpoint: Checkpoint) -> list[tuple[str, ...]]:
    """Return names of the text model's tensors: first those outside the layers, then whole layers, as many as fit in a
    slice.

    Where a name misleads, the part is too large, or the converter finds a tensor missing: files are compared with the
    plan afterwards.
    """
    groups = by_layer(checkpoint)
    sizes = {number: slice_bytes(checkpoint, names) for number, names in groups.items()}
    limit = max(sizes.get(-1, 0), sum(sizes.values()) // _LARGEST, _SMALLEST)
    parts: list[list[str]] = [groups.pop(-1, [])]
    part_bytes = limit  # so that the first layer begins a part
    for number in sorted(groups):
        if part_bytes + sizes[number] > limit:
            parts.append([])
            part_bytes = 0
        parts[-1] += groups[number]
        part_bytes += sizes[number]
    return [tuple(names) for names in parts if names]


def by_layer(checkpoint: Checkpoint) -> dict[int, list[str]]:
    """Return names of the text model's tensors by decoder layer, with -1 for those outside the layers. Tensors whose
    names belong to the vision half are left out."""
    groups: dict[int, list[str]] = {}
    for name in checkpoint.shapes:
        if _OTHER_HALF.match(name):
            continue
        match = _LAYER.search(name)
        groups.setdefault(int(match[1]) if match else -1, []).append(name)
    return groups


def slice_bytes(checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """Return the bytes that the tensors take in the checkpoint's files."""
    return sum(checkpoint.sizes[name] for name in names)


def write(checkpoint: Checkpoint, names: Sequence[str], folder: Path) -> None:
    """Make `folder` a checkpoint that has only these tensors: links to the small files (copies where
    there are no links), and a copy of the tensors."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in checkpoint.folder.iterdir():
        if path.is_file() and path.suffix not in _NOT_LINKED and not path.name.endswith(".safetensors.index.json"):
            try:
                (folder / path.name).symlink_to(path.resolve())
            except OSError:  # a file system without links
                shutil.copyfile(path, folder / path.name)
    included, header, places, at = set(names), {}, [], 0
    for shard in dict.fromkeys(checkpoint.shards[name] for name in names):
        start, entries = safetensors_entries(shard)
        for name in (name for name in entries if name in included):
            first, after = entries[name]["data_offsets"]
            header[name] = entries[name] | {"data_offsets": [at, at + after - first]}
            places.append((shard, start + first, after - first))
            at += after - first
    raw = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    raw += b" " * (-len(raw) % 8)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        for shard, offset, n_bytes in places:
            with shard.open("rb") as source:
                file_ranges.append(source, offset, n_bytes, out)
