"""Refuses images that a model's own processor would reject, before anything is asked about them.

libmtmd makes something of every image, also of those that transformers' processors refuse to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.images import upright_size
from luq_gguf.core.types import Sample
from luq_gguf.llamacpp.gguf import reader

LONGEST = 200  # times the shorter side: the limit of `smart_resize` (transformers, image_processing_qwen2_vl.py)
# Projectors of families whose processors resize with it, as clip.projector_type names them (tools/mtmd/clip-impl.h).
_LIMITED = {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "qwen2.5o", "glm4v", "paddleocr", "hunyuanvl"}


def check(mmproj: Path, samples: Sequence[Sample]) -> None:
    """Raise EvaluationError, naming the first, where samples have images that are too long for the mmproj's family."""
    metadata = reader.read(mmproj).metadata
    kinds = {metadata.get(key) for key in ("clip.projector_type", "clip.vision.projector_type")}
    if not kinds & _LIMITED:
        return
    sizes = {
        image: upright_size(image) for image in dict.fromkeys(image for sample in samples for image in sample.images)
    }
    long = [image for image, size in sizes.items() if max(size) > LONGEST * min(size)]
    if long:
        width, height = sizes[long[0]]
        more = f" and {len(long) - 1} more" if len(long) > 1 else ""
        raise EvaluationError(
            f"The image {long[0].name[:100]}{more} is too long for this model's processor ({width} x {height} pixels; "
            f"one side may be {LONGEST} times the other).",
            "Results on an incomplete set would be misleading: repair the set.",
        )
