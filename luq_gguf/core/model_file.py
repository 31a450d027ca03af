"""A GGUF file that a user gives in a checkpoint's place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFile:
    """The file (its first shard), the bytes of all its shards, its bits per weight, and the mmproj beside it, if there
    is one. `is_quantized`: whether llama-quantize has to quantize again what is quantized already. `checkpoint`: the
    key of the checkpoint in the header of either half, where luq-gguf has written one."""

    path: Path
    n_bytes: int
    bpw: float
    mmproj: Path | None
    is_quantized: bool
    checkpoint: str | None
