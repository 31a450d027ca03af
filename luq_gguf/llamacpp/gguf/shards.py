"""Files that llama-gguf-split has cut into shards: any shard leads to the whole, which llama.cpp loads by the first."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.hashing import contents_of
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.gguf.reader import GGUFInfo

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_COUNT = "split.count"
_TOGETHER = "Put all shards into one folder, under the names that llama-gguf-split gave them."


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all shards of the file that a shard is of, the first one first; any other file is its own only one.

    Raises GGUFFileError where a shard is missing.
    """
    match = _NAME.fullmatch(path.name)
    count = int(match["count"]) if match else 1
    if match is None or count < 2 or not path.is_file():
        return (path,)
    files = [path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf") for number in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing and _shard_count(reader.read(path)) < 2:  # it only bears such a name
        return (path,)
    if missing:
        absent = f"{missing[0]} is" if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more are"
        raise GGUFFileError(f"{path.name} is one of {count} shards, and {absent} not in {path.parent}.", _TOGETHER)
    return tuple(files)


def read(path: Path) -> GGUFInfo:
    """Return the header of a whole file, also where it is cut into shards: all tensors, all bytes, the metadata and the
    path of the first shard. Raises GGUFFileError."""
    files = files_of(path)
    infos = [reader.read(file) for file in files]
    told = _shard_count(infos[0])
    if told > 1 and told != len(files):
        raise GGUFFileError(
            f"{path.name} is one of {told} shards, but its name does not tell where the others are.", _TOGETHER
        )
    tensors = tuple(tensor for info in infos for tensor in info.tensors)
    return replace(infos[0], n_bytes=sum(info.n_bytes for info in infos), tensors=tensors)


def sha256(path: Path) -> str:
    """Return the sha256 of a file's contents in hex; of one in shards that of the shards' own, in their order. Raises
    OSError, and GGUFFileError where a shard is missing."""
    contents = contents_of(files_of(path))
    return contents[0] if len(contents) == 1 else hashlib.sha256("".join(contents).encode()).hexdigest()


def n_bytes(path: Path) -> int:
    """Return the bytes of a file with all its shards."""
    return sum(file.stat().st_size for file in files_of(path))


def _shard_count(info: GGUFInfo) -> int:
    told = info.metadata.get(_COUNT)
    return told if isinstance(told, int) else 1
