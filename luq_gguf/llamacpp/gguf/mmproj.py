"""mmproj files: find those next to a text model's file, and write LLaVA-1.5's as libmtmd reads it: a CLIP tower and
projector type "mlp" (tools/mtmd/clip.cpp)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.core import atomic
from luq_gguf.core.clip_vision import ClipVision
from luq_gguf.core.errors import ConversionError, GGUFFileError
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import validate
from luq_gguf.llamacpp.gguf.metadata import CHECKPOINT

_NAME = re.compile(r"(?:^|[-_.])mmproj(?:[-_.].*)?\.gguf$", re.IGNORECASE)


def beside(model: Path) -> list[Path]:
    """Return the mmproj files in the folder of a text model's file, by name."""
    return sorted(path for path in model.parent.iterdir() if is_mmproj_name(path.name) and path != model)


def candidates(model: Path) -> list[Path]:
    """Return the mmproj files that may belong to a text model's file: those in its folder, and of several only those
    that name the same checkpoint, if any does. Raises GGUFFileError for a file that is not a valid GGUF."""
    files = beside(model)
    if len(files) < 2 or (ours := checkpoint_of(model)) is None:
        return files
    return [file for file in files if checkpoint_of(file) == ours] or files


def checkpoint_of(path: Path) -> str | None:
    """Return the key of the checkpoint that luq-gguf made a file from; None for files of other programs and of older
    versions. Raises GGUFFileError for a file that is not a valid GGUF."""
    return validate.check(path).ours.get(CHECKPOINT)


def belong_together(model: Path, mmproj: Path) -> bool:
    """Return whether two files can be of one checkpoint: unless both say which, nothing speaks against it."""
    keys = {checkpoint_of(path) for path in (model, mmproj)}
    return len(keys - {None}) < 2


def check_pair(model: Path, mmproj: Path) -> None:
    """Raise GGUFFileError where two files say that they were made from different checkpoints: llama.cpp would load an
    mmproj of the same width, and answer wrongly."""
    if not belong_together(model, mmproj):
        raise GGUFFileError(
            f"{mmproj.name} was made from another checkpoint than {model.name}, so its answers about images would be "
            "wrong.",
            "Give --mmproj the file that was made from the same checkpoint.",
        )


def is_mmproj_name(name: str) -> bool:
    """Return whether a file of this name is an mmproj, as publishers name them: mmproj-NAME-F16.gguf, mmproj.gguf,
    NAME-mmproj-f16.gguf, NAME.mmproj-Q8_0.gguf, NAME.mmproj.gguf, in upper case too."""
    return _NAME.search(name) is not None


def write(
    out: Path,
    name: str,
    vision: ClipVision,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the file next to its name and rename it when it is complete.

    shapes: names in the file -> shapes (torch order); read(name) gives a tensor when its turn has come. Raises
    ConversionError where a value does not fit 16 bits.
    """
    with atomic.whole(out) as part:
        _write(part, name, vision, shapes, read, on_progress)


def write_header(out: Path, name: str, vision: ClipVision, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the same file with a hole in the place of its weights."""
    writer, n_bytes = _begin(out, name, vision, shapes)
    writer.close()
    with out.open("r+b") as file:
        file.truncate(padded(out.stat().st_size, writer.data_alignment) + n_bytes)


def _write(
    part: Path,
    name: str,
    vision: ClipVision,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    on_progress: Callable[[float], None],
) -> None:
    writer, _ = _begin(part, name, vision, shapes)
    for done, (tensor, shape) in enumerate(shapes.items(), 1):
        writer.write_tensor_data(_cast(tensor, read(tensor), _dtype(tensor, shape)))
        on_progress(done / len(shapes))
    for _tensor in _missing_bias(shapes):
        writer.write_tensor_data(np.zeros(vision.text_width, dtype=np.float32))
    writer.close()


def _begin(
    part: Path, name: str, vision: ClipVision, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[gguf.GGUFWriter, int]:
    """Write all that stands before the weights; return the writer, and how many bytes these take."""
    writer = gguf.GGUFWriter(part, arch="clip")
    _describe(writer, name, vision)
    tensors = {tensor: (shape, _dtype(tensor, shape)) for tensor, shape in shapes.items()}
    tensors |= {tensor: ((vision.text_width,), np.dtype(np.float32)) for tensor in _missing_bias(shapes)}
    n_bytes = 0
    for tensor, (shape, dtype) in tensors.items():
        size = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(tensor, shape, dtype, size)
        n_bytes += padded(size, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer, n_bytes


def _missing_bias(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The projector's biases that a checkpoint lacks: libmtmd always adds one."""
    return [name for name in ("mm.0.bias", "mm.2.bias") if name not in shapes]


def _describe(writer: gguf.GGUFWriter, name: str, vision: ClipVision) -> None:
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(value=True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_projection_dim(vision.text_width)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.width)
    writer.add_vision_feed_forward_length(vision.ffn_width)
    writer.add_vision_block_count(vision.n_layers)
    writer.add_vision_head_count(vision.n_heads)
    writer.add_vision_attention_layernorm_eps(vision.eps)
    writer.add_vision_image_mean(list(vision.image_mean))
    writer.add_vision_image_std(list(vision.image_std))
    if vision.activation != "quick_gelu":  # libmtmd's default for these files
        writer.add_vision_use_gelu(value=True)
    if vision.feature_layers != (vision.n_layers - 1,):  # the last but one is what every llama.cpp reads unasked
        writer.add_array("clip.vision.feature_layer", list(vision.feature_layers))
    if vision.stretches:  # tiles of no size leave the overview, and that has no bars
        writer.add_array("clip.vision.image_grid_pinpoints", [0, 0])


def _dtype(tensor: str, shape: tuple[int, ...]) -> np.dtype:
    """16 bits for matrices and the patch kernel; positions, norms and biases stay whole, as the converter does."""
    return np.dtype(np.float16 if len(shape) > 1 and "position_embd" not in tensor else np.float32)


def _cast(tensor: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values.astype(dtype))
    if not np.isfinite(cast).all():
        raise ConversionError(
            f"The vision tensor {tensor} has values that do not fit in 16 bits.",
            "Check that the checkpoint is not damaged.",
        )
    return cast
