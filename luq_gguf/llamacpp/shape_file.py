"""GGUF files of a model's geometry with random weights: as fast and as large as the real one, and nothing to download.

For every type and row length that occurs some rows are quantized once, by ggml; every tensor is filled with copies of
them, so each lies in memory of its own, as in a real file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.errors import ConversionError, DiskSpaceError
from luq_gguf.llamacpp import child, tools
from luq_gguf.llamacpp.gguf import header_only, reader

ROWS = 128  # quantized once; a tensor repeats them
FILE_TYPES = {"F16": 1}  # general.file_type; llama-quantize's other numbers do not matter to speed
MARGIN = 2**28  # of disk, left free


def write(
    out: Path,
    source: reader.GGUFInfo,
    types: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    changes: Mapping[str, object] | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> reader.GGUFInfo:
    """Write a file with a header-only GGUF's metadata and these types; `shapes` (torch order) are the header-only
    GGUF's unless given.

    Raises DiskSpaceError before anything is written, ConversionError where ggml cannot make a type's rows.
    """
    if shapes is None:
        shapes = {tensor.name: tensor.shape[::-1] for tensor in source.tensors}
    tensors = {name: (types[name], shape) for name, shape in shapes.items()}
    n_bytes = sum(reader.type_bytes(kind, _count(shape)) for kind, shape in tensors.values())
    free = shutil.disk_usage(out.parent).free
    if free < n_bytes + MARGIN:
        raise DiskSpaceError(
            f"{out.parent} has {free / 2**30:.2f} GiB free, but {out.name} takes {n_bytes / 2**30:.2f} GiB.",
            "Free some space, or give --out a folder on another disk.",
        )
    with atomic.whole(out) as part:
        header_only.write(part, source.path, tensors, {"quantize.imatrix.file": None} | dict(changes or {}))
        _fill(part, tensors, n_bytes, on_progress)
    return reader.read(out)


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n


def _fill(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    n_bytes: int,
    on_progress: Callable[[float], None],
) -> None:
    row_kinds = sorted({(kind, shape[-1]) for kind, shape in tensors.values()})
    with tempfile.TemporaryDirectory() as folder:
        child.run(
            [tools.python(), "-m", "luq_gguf.llamacpp.blocks", folder, *(f"{k}:{n}:{ROWS}" for k, n in row_kinds)],
            child.Failure(ConversionError, "ggml's quantizer"),
        )
        rows = {(kind, n): (Path(folder) / f"{kind}-{n}.bin").read_bytes() for kind, n in row_kinds}
    written = 0
    offsets = {tensor.name: int(tensor.data_offset) for tensor in reader.Reader(path).tensors}
    with path.open("r+b") as file:
        for name, (kind, shape) in tensors.items():
            file.seek(offsets[name])
            left, block = reader.type_bytes(kind, _count(shape)), rows[kind, shape[-1]]
            written += left
            while left:
                left -= file.write(block[: min(left, len(block))])
            on_progress(written / n_bytes)
