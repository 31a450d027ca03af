"""Read GGUF files: tensors, types, metadata, and how long the header is. All through the `gguf` package, after
`validate` has found that the header can be believed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from luq_gguf.core.errors import GGUFFileError, TypeNameError
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import validate

# llama-quantize refuses these without importance (src/llama-quant.cpp, tensor_requires_imatrix), but for the
# embeddings and the head.
IMATRIX_TYPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
NEVER_MEASURED = ("token_embd.weight", "output.weight")
_CHUNK = 2**22  # elements


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the file's header has it; shape in GGUF order (columns first)."""

    name: str
    type: str
    shape: tuple[int, ...]
    n_weights: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFInfo:
    """Header of a GGUF file. `header_bytes` is where tensor data begins."""

    path: Path
    n_bytes: int
    header_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def arch(self) -> str:
        """Return the architecture; empty where the file does not name one (importance matrices of llama-imatrix)."""
        name = self.metadata.get("general.architecture", "")
        return name if isinstance(name, str) and name.isprintable() else ""

    @property
    def n_layers(self) -> int:
        return self.number("block_count")

    def number(self, key: str) -> int:
        """Return a whole number from the architecture's metadata. Raises GGUFFileError where the file has none."""
        value = self.metadata.get(f"{self.arch}.{key}")
        if not isinstance(value, int):
            raise GGUFFileError(
                f"{self.path} has no {key} for its architecture.", "Give the GGUF file of a text model."
            )
        return value

    @property
    def types(self) -> dict[str, str]:
        return {tensor.name: tensor.type for tensor in self.tensors}

    @property
    def bpw(self) -> float:
        return 8 * sum(t.n_bytes for t in self.tensors) / max(1, sum(t.n_weights for t in self.tensors))


def read(path: Path) -> GGUFInfo:
    """Return the header of a GGUF file; tensor data is mapped, not read. Raises GGUFFileError where it is not a valid
    one."""
    reader = open_reader(path)
    try:
        tensors = tuple(
            TensorInfo(t.name, t.tensor_type.name, tuple(int(n) for n in t.shape), int(t.n_elements), int(t.n_bytes))
            for t in reader.tensors
        )
        metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        data_offset = int(reader.data_offset)
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise GGUFFileError(f"{path} is damaged: {error}", "Download or convert it again.") from None
    return GGUFInfo(path, path.stat().st_size, data_offset, metadata, tensors)


def read_tensors(path: Path) -> GGUFInfo:
    """Return the header with little of its metadata (the alignment, whole numbers and the architecture): a vocabulary
    of 152 000 tokens takes seconds to read."""
    header = validate.check(path)
    start = padded(header.end, header.alignment)
    kinds = [(name, gguf.GGMLQuantizationType(kind).name, shape) for name, kind, shape in header.tensors]
    tensors = tuple(TensorInfo(n, k, s, prod(s), type_bytes(k, prod(s))) for n, k, s in kinds)
    metadata = {**header.numbers, **header.texts, "general.alignment": header.alignment}
    return GGUFInfo(path, path.stat().st_size, start, metadata, tensors)


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """The `gguf` package's reader on a plain array, which is cut into pieces three times as fast as a numpy.memmap; and
    with a few steps for each string of a vocabulary, where that has dozens."""

    @property
    def data(self) -> np.ndarray:
        return self._plain

    @data.setter
    def data(self, mapped: np.ndarray) -> None:
        self._plain = mapped.view(np.ndarray)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[np.ndarray], list[int], list[gguf.GGUFValueType]]:
        """Return an entry's bytes, pieces, which of them are its contents, and types, as the package's method does;
        numbers of an array are one piece. `validate` has seen that they are all within the file."""
        if raw_type != gguf.GGUFValueType.ARRAY:
            size, parts, contents, types = super()._get_field_parts(orig_offs, raw_type)
            return size, parts, contents, types
        data = self.data
        kind, count = data[orig_offs : orig_offs + 4].view("<u4"), data[orig_offs + 4 : orig_offs + 12].view("<u8")
        value_type, n, at = gguf.GGUFValueType(kind[0]), int(count[0]), orig_offs + 12
        types = [gguf.GGUFValueType.ARRAY, *([value_type] if n else [])]
        pieces = [kind, count]
        if value_type != gguf.GGUFValueType.STRING:
            numbers = self._get(at, self.gguf_scalar_to_np[value_type], n)
            return 12 + int(numbers.nbytes), [*pieces, numbers], [2] if n else [], types
        for _ in range(n):
            length = data[at : at + 8].view("<u8")
            end = at + 8 + int(length[0])
            pieces += (length, data[at + 8 : end])
            at = end
        return at - orig_offs, pieces, list(range(3, len(pieces), 2)), types


def open_reader(path: Path) -> Reader:
    """Return a reader, which maps the file. Raises GGUFFileError where its header cannot be trusted."""
    validate.check(path)
    try:
        return Reader(path)
    except (ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise GGUFFileError(f"{path} is damaged: {error}", "Download or convert it again.") from None


def column_energies(info: GGUFInfo, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return sums of squared weights per column, float64 [n_in], of matrices in F16 or F32.

    Tensors follow each other without gaps (`validate` has checked that), so the header is not read again.
    """
    energies, at = {}, info.header_bytes
    alignment = int(info.metadata.get("general.alignment", 32))
    for tensor in info.tensors:
        if tensor.name in names:
            kind = {"F16": np.float16, "F32": np.float32}[tensor.type]
            matrix = np.memmap(info.path, kind, "r", at, (tensor.n_weights // tensor.shape[0], tensor.shape[0]))
            energies[tensor.name] = np.zeros(tensor.shape[0])
            for start in range(0, len(matrix), 1024):  # a few rows at a time: a head may have gigabytes
                rows = matrix[start : start + 1024].astype(np.float32)
                energies[tensor.name] += np.einsum("ij,ij->j", rows, rows)
        at += padded(tensor.n_bytes, alignment)
    return energies


def kind_of(info: GGUFInfo) -> str:
    """Return what a file is according to its metadata: "model", "mmproj" or "imatrix"."""
    if info.metadata.get("general.type") == "imatrix" or info.arch == "imatrix":
        return "imatrix"
    return "mmproj" if info.metadata.get("general.type") == "mmproj" or info.arch == "clip" else "model"


def projector_of(info: GGUFInfo) -> str:
    """Return the type of an mmproj's projector; empty where the file does not name one."""
    projector = info.metadata.get("clip.projector_type", info.metadata.get("clip.vision.projector_type", ""))
    return projector if isinstance(projector, str) and projector.isprintable() else ""


def first_not_finite(path: Path) -> str | None:
    """Return the first tensor in 16, 32 or 64 bits with an infinity or a NaN in it; a few megabytes are read at a
    time."""
    for tensor in open_reader(path).tensors:
        kind, values = tensor.tensor_type.name, tensor.data.reshape(-1)
        if kind not in ("F16", "BF16", "F32", "F64"):
            continue
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            bad = (part.view(np.uint16) & 0x7F80) == 0x7F80 if kind == "BF16" else ~np.isfinite(part)
            if bad.any():
                return str(tensor.name)
    return None


def type_bytes(kind: str, n_weights: int) -> int:
    """Return the bytes of that many weights in a type; raises ValueError where they do not fill the type's blocks."""
    block: int
    size: int
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if n_weights % block:
        raise ValueError(f"{n_weights} weights do not fill blocks of {block} ({kind})")
    return n_weights // block * size


def fits_blocks(kind: str, n_columns: int) -> bool:
    """Return whether rows of that many weights divide into a type's blocks."""
    return n_columns % int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]) == 0


def bits_per_weight(kind: str) -> float:
    """Return the bits per weight of a tensor type."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return 8 * int(size) / int(block)


def needs_importance(name: str, kind: str, ftype: str) -> bool:
    """Return whether llama-quantize gives this tensor this type, in a file of this ftype, only with an importance
    entry."""
    needed = kind in IMATRIX_TYPES or (kind == "Q2_K" and ftype == "Q2_K_S")
    return needed and name not in NEVER_MEASURED


def quantized_types() -> list[str]:
    """Return the names of all types that a file's tensors can be quantized to."""
    names = [kind.name for kind in gguf.GGMLQuantizationType if kind.name.startswith(("Q", "IQ", "TQ"))]
    return [name for name in names if name not in ("Q8_1", "Q8_K")]


def check_type(kind: str, option: str, also: Collection[str] = ()) -> str:
    """Return the canonical name of a tensor type given by a user: a quantized one, or one of `also`. Raises
    TypeNameError where GGUF has none of that name."""
    name, types = kind.upper(), quantized_types()
    if name not in (*types, *also):
        raise TypeNameError(
            f"{option} {kind}: GGUF has no quantized type of this name.",
            f"Choose one of: {', '.join([*sorted(types), *also])}.",
        )
    return name
