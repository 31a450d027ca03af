"""A file in shards that llama.cpp loads as one, by llama-gguf-split."""

from __future__ import annotations

import shutil
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import ConversionError, DiskSpaceError
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp import child
from luq_gguf.llamacpp.tools import LlamaCpp


def split(llama: LlamaCpp, path: Path, folder: Path, max_bytes: int) -> list[Path]:
    """Write the shards of `path`, each of at most about `max_bytes`, into a folder that does not exist yet.

    Raises DiskSpaceError before anything is written, ConversionError where the tool fails. The tool counts in millions
    of bytes and cuts between tensors.
    """
    free, n_bytes = shutil.disk_usage(folder.parent).free, path.stat().st_size
    if n_bytes > free:
        raise DiskSpaceError(
            f"The shards of {path.name} take {format_size(n_bytes)}, but the disk has {format_size(free)} free.",
            "Free some space and run the same command again.",
        )
    with atomic.whole(folder) as part:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        size = f"{max(1, max_bytes // 10**6)}M"
        command: list[str | Path] = [llama.tool("llama-gguf-split"), "--split", "--split-max-size", size]
        command += [path, part / path.stem]
        child.run(command, child.Failure(ConversionError, "llama-gguf-split"), into=part)
    return sorted(folder.glob("*.gguf"))
