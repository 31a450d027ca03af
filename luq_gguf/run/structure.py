"""Compares what llama.cpp's converter would write of a checkpoint with what transformers computes with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.tensor_sources import MatrixSource
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp.gguf.reader import GGUFInfo

if TYPE_CHECKING:
    from torch import nn

_BLOCK = re.compile(r"^v\.blk\.(\d+)\.")
_TEXT_BLOCK = re.compile(r"^blk\.(\d+)\.")
_DEPTHS = ("depth", "num_hidden_layers", "num_layers", "layers")
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # libmtmd has one for all of them
_SILU = ("silu", "swish")
_NOT_READ = 2  # vision layers behind the one whose output a model reads: some converters leave them out


def check_shapes(matrices: Mapping[str, MatrixSource], source: GGUFInfo) -> None:
    """Check that every matrix with importance has as many columns in the file as inputs in transformers.

    Raises CheckpointError: experts that are stored transposed pass through the converter and fail in llama-quantize.
    """
    shapes = {tensor.name: (prod(tensor.shape[2:]), tensor.shape[0]) for tensor in source.tensors}
    for name, matrix in matrices.items():
        ours = matrix.n_mat, matrix.n_in
        if shapes[name] != ours:
            raise CheckpointError(
                f"llama.cpp's converter would write {name} with {shapes[name][1]} columns ({shapes[name][0]} times), "
                f"but transformers computes it with {ours[1]} ({ours[0]} times): the checkpoint stores it in a layout "
                "that the converter does not know.",
                "Use the checkpoint as it was published on the Hub. transformers 5 saves the experts of some "
                "architectures transposed.",
            )


def check_blocks(source: GGUFInfo, checkpoint: Checkpoint) -> None:
    """Check that the converter would not count blocks behind the last one that it writes.

    Raises CheckpointError: llama.cpp does not load such a file.
    """
    written = [int(match[1]) for tensor in source.tensors if (match := _TEXT_BLOCK.match(tensor.name))]
    count = source.metadata.get(f"{source.arch}.block_count")
    if isinstance(count, int) and written and count > max(written) + 1:
        raise CheckpointError(
            f"llama.cpp's converter counts {count} blocks in {checkpoint.name}, but would write {max(written) + 1}, so "
            "llama.cpp would not load the file.",
            "Add the missing weights (layers for multi-token prediction?), or give config.json their true number.",
        )


def check_vision(tensors: Mapping[str, tuple[str, tuple[int, ...]]], checkpoint: Checkpoint, model: nn.Module) -> None:
    """Check that the converter writes the vision half that the config describes. `tensors` is what its dry run lists.

    Raises CheckpointError: it skips tensors whose names it does not know.
    """
    names = [name for name in checkpoint.shapes if re.search(r"(?:^|\.)(?:visual|vision\w*)\.", name)]
    unlike = f", and its tensors are called {names[0]}" if names else ""
    hint = "Save the checkpoint again under the names that it has on the Hub: the converter knows no others."
    if not tensors:
        raise CheckpointError(
            f"llama.cpp's converter recognizes no tensor of the vision half of {checkpoint.name}{unlike}.", hint
        )
    blocks = {int(match[1]) for name in tensors if (match := _BLOCK.match(name))}
    depth = _depth(checkpoint)
    missing = sorted(set(range(max(depth - _NOT_READ, max(blocks, default=-1) + 1))) - blocks)
    if blocks and missing:
        raise CheckpointError(
            f"llama.cpp's converter would write the vision half of {checkpoint.name} without its layer {missing[0]} "
            f"(config.json has {depth}){unlike}.",
            hint,
        )
    written, needed = sum(prod(shape) for _, shape in tensors.values()), _n_vision(model)
    if 2 * written < needed:
        raise CheckpointError(
            f"llama.cpp's converter would write {written:,} of the {needed:,} weights of the vision half of "
            f"{checkpoint.name}{unlike}.",
            hint,
        )


def activation(checkpoint: Checkpoint) -> dict[str, bool]:
    """Return the entry of an mmproj's metadata that names the activation in the vision half's layers, as config.json
    does; empty where it does not, or says quick_gelu, which libmtmd takes where a file names none."""
    vision = checkpoint.config.get("vision_config")
    names = [vision.get(key) for key in ("hidden_act", "hidden_activation")] if isinstance(vision, dict) else []
    name = next((name for name in names if isinstance(name, str)), "")
    return {"clip.use_gelu": True} if name in _GELU else {"clip.use_silu": True} if name in _SILU else {}


def _depth(checkpoint: Checkpoint) -> int:
    vision = checkpoint.config.get("vision_config")
    values = [vision.get(name) for name in _DEPTHS] if isinstance(vision, dict) else []
    return next((value for value in values if type(value) is int), 0)


def _n_vision(model: nn.Module) -> int:
    """Weights outside the decoder and the head."""
    parts: list[Any] = [getattr(model, name, None) for name in ("get_decoder", "get_output_embeddings")]
    text = {id(p) for find in parts if find and (part := find()) is not None for p in part.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in text)
