"""What memory a calibration pass takes on the CPU, as far as the headers of a checkpoint tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luq_gguf.hf import slices
from luq_gguf.hf.checkpoint import Checkpoint, safetensors_entries

_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_WIDTHS = {"bfloat16": 2, "float32": 4}
_LEAST, _USUAL = 2**27, 2**28


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a pass takes in addition to what the process has after importing torch.

    `converted`: weights that files have in another type, which the process must hold itself. Others are mapped from the
    files, and read again where memory is short. `least`: less was never seen to do. `usual`: with full batches.
    """

    converted: int
    least: int
    usual: int


def n_parameters(checkpoint: Checkpoint) -> int:
    """Return how many numbers the checkpoint contains; transformers leaves out what the model does not use."""
    return sum(math.prod(shape) for shape in checkpoint.shapes.values())


def largest_layer(checkpoint: Checkpoint) -> int:
    """Return how many numbers the largest decoder layer has."""
    layers = [names for number, names in slices.by_layer(checkpoint).items() if number >= 0]
    return max((sum(math.prod(checkpoint.shapes[name]) for name in names) for names in layers), default=0)


def of_pass(checkpoint: Checkpoint, dtype: str, n_used: int | None = None) -> Footprint:
    """Return what a pass with weights in "bfloat16" or "float32" takes; `n_used` is how many numbers the model has,
    where that is known better than from the headers.

    Measured (growth of RssAnon from the imports to the peak, less the converted weights; checkpoints in bfloat16 of
    Qwen2.5-VL's architecture, 237 and 791 million weights; batches of 1024 tokens, one image of 784 tokens each; 2
    threads): in bfloat16 266 and 437 MiB, in float32 307 and 497 MiB; 171 MiB with short samples, 84 MiB after loading.
    So `least` is 128 MiB on top of the weights, and `usual` 256 MiB and an eighth of the weights. Qwen2.5-VL-7B's
    shape took 1.2 GiB in bfloat16 (docs/scale.md), where this says 2.2.
    """
    width, converted = _WIDTHS[dtype], 0
    for shard in dict.fromkeys(checkpoint.shards.values()):
        for entry in safetensors_entries(shard)[1].values():
            if _FLOATS.get(entry["dtype"], dtype) != dtype:
                converted += width * math.prod(entry["shape"])
    n_bytes = width * min(n_parameters(checkpoint), n_used or n_parameters(checkpoint))
    converted = min(converted, n_bytes)
    return Footprint(converted, converted + _LEAST, converted + _USUAL + n_bytes // 8)
