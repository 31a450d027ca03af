"""Frozen values of `luq-gguf choose`: what each file of a repository or folder needs here, and which one is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luq_gguf.core.json_value import JsonValue
from luq_gguf.core.memory_use import ContextShape, MemoryUse


@dataclass(frozen=True)
class Quality(JsonValue):
    """What was measured of a file, on `samples` questions or chunks of `data`: mean KL divergence from the 16-bit file
    in nats, and accuracy. `origin` is the file that says so. Files with the same `data_sha256` (None: not known) and
    metric were measured on the same, and can be compared."""

    data: str
    data_sha256: str | None
    metric: str | None
    samples: int | None
    kld: float | None
    accuracy: float | None
    origin: str


@dataclass(frozen=True)
class FileNeed(JsonValue):
    """A text model's file, all its shards, and what it needs with its mmproj in a context.

    `memory` is None where `problem` says why it is not known. `image_max_tokens` is the limit that images need to have,
    `cli_bytes` what llama-mtmd-cli needs, which reserves other compute buffers; speeds are None where the rates of its
    types are not known on this machine.
    """

    file: str
    shards: tuple[str, ...]
    n_bytes: int
    mmproj: str | None
    fits: bool
    memory: MemoryUse | None = None
    context: ContextShape | None = None
    n_ctx_train: int | None = None
    image_max_tokens: int | None = None
    cli_bytes: int | None = None
    decode_tps: float | None = None
    prefill_tps: float | None = None
    quality: Quality | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Choice(JsonValue):
    """All files, the best of them (None where none fits), why, and how to run it. `revision` is None for a folder;
    `header_bytes` were read for this."""

    source: str
    revision: str | None
    memory_bytes: int
    threads: int
    files: tuple[FileNeed, ...]
    best: str | None
    why: str
    commands: Mapping[str, str]
    modelfile: str | None
    header_bytes: int

    def to_json(self) -> dict[str, Any]:
        content = super().to_json()
        for need, row in zip(self.files, content["files"], strict=True):
            row["memory"] = need.memory.to_json() if need.memory else None
        return content
