"""Asks llama.cpp what memory a GGUF file needs, before any of it is taken: a header before a hole is enough."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from luq_gguf.core.errors import RunnerError
from luq_gguf.core.memory_use import ContextShape, ImageLimits, MemoryUse
from luq_gguf.llamacpp import child, tools

MOST_MEMORY, MOST_SECONDS = 64 * 1024**3, 120  # of address space and CPU time: the header may be anybody's
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")  # of -ctk and -ctv


@dataclass(frozen=True)
class MemoryReport:
    """What llama.cpp says of a file: its memory in each context that was asked for (None where it cannot make that
    one), the context that the model was trained with, and what limits images; None without an mmproj."""

    uses: tuple[MemoryUse | None, ...]
    n_ctx_train: int
    images: ImageLimits | None


def report(
    model: Path, mmproj: Path | None, shapes: Sequence[ContextShape], *, image_max_tokens: int | None = None
) -> MemoryReport:
    """Return what the text model's file (the first shard of one in several) and its mmproj need.

    `image_max_tokens` is llama-server's option. Raises RunnerError, with llama.cpp's words, where it cannot load them.
    """
    request = {
        "model": str(model),
        "mmproj": str(mmproj) if mmproj else None,
        "image_max_tokens": -1 if image_max_tokens is None else image_max_tokens,
        "contexts": [shape.to_json() for shape in shapes],
        "max_memory": MOST_MEMORY,
        "max_seconds": MOST_SECONDS,
    }
    command = [tools.python(), "-m", "luq_gguf.llamacpp.runtime.report_memory", json.dumps(request)]
    with child.started(command, tools.bindings_environment(), stdout=PIPE, stderr=PIPE) as process:
        out, errors = process.communicate()
    if process.returncode or not out:
        found = re.search(r"GGML_ASSERT\(.*", errors)
        words = found[0] if found else " ".join(errors.split()[-30:])
        message = f"llama.cpp {child.ended(process.returncode)} while reading the header of {model.name}: {words}"
        raise child.failed(RunnerError, process.returncode, message, errors)
    content: dict[str, Any] = json.loads(out)
    if "error" in content:
        raise RunnerError(f"llama.cpp cannot load {model.name}: {content['error']}.", "Choose another file.")
    vision = content["vision"] or {"weights": 0, "compute": 0}

    def use(context: dict[str, int] | None) -> MemoryUse | None:
        if context is None:
            return None
        parts = content["weights"], vision["weights"], context["kv_cache"], context["compute"], vision["compute"]
        return MemoryUse(*parts, content["program"], content["repacked"])

    images = _images(vision) if content["vision"] else None
    return MemoryReport(tuple(map(use, content["contexts"])), content["n_ctx_train"], images)


def _images(vision: dict[str, Any]) -> ImageLimits:
    pixels = vision["pixels_of_token"]
    if not pixels or not vision["max_pixels"] or not vision["reserved_pixels"]:
        return ImageLimits(None, None)
    return ImageLimits(vision["max_pixels"] // pixels, vision["reserved_pixels"] // pixels)
