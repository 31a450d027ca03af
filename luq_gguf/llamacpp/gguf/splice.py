"""Splicing: any choice of low layers as a file, spliced from one with all layers low and one with none; and a
file of several that hold a part of its tensors each.

llama-quantize computes a tensor from its weights and its importance alone, so a spliced file has the bytes it would
have written itself; what it writes around them (metadata, order, padding) is copied. Hours of quantizing become
seconds of copying.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import gguf

from luq_gguf.core import atomic, file_ranges
from luq_gguf.core.errors import VerificationError
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import metadata
from luq_gguf.llamacpp.gguf import reader as gguf_reader


def splice(
    files: Sequence[Path],
    types: Mapping[str, str],
    out: Path,
    *,
    order: Iterable[str] | None = None,
    changes: Mapping[str, str] | None = None,
) -> None:
    """Write a file with each tensor in the given type, copied from the first of the files that has it in that type.

    Metadata are those of the first file, but for `changes` of texts. `order` is that of the tensors, if not all that
    are wanted lie in the first file. Raises VerificationError naming a tensor that none holds in its type.
    """
    readers = {path: gguf_reader.open_reader(path) for path in files}
    tensors_of = {path: {tensor.name: tensor for tensor in reader.tensors} for path, reader in readers.items()}
    first = files[0]
    alignment = readers[first].alignment
    chosen, infos, at = [], b"", 0
    for name in tensors_of[first] if order is None else order:
        source = next(
            (p for p in files if name in tensors_of[p] and tensors_of[p][name].tensor_type.name == types[name]), None
        )
        if source is None:
            raise VerificationError(
                f"The quantized variants do not contain {name} in {types[name]}.", "Run the same command again."
            )
        tensor = tensors_of[source][name]
        chosen.append((source, int(tensor.data_offset), int(tensor.n_bytes)))
        infos += _info(name, tensor, at)
        at += padded(int(tensor.n_bytes), alignment)
    with atomic.whole(out) as part, part.open("wb") as file:
        head = _before_infos(first, readers[first], len(chosen), changes or {}) + infos
        file.write(head.ljust(padded(len(head), alignment), b"\0"))
        for source, offset, n_bytes in chosen:
            with source.open("rb") as given:
                file_ranges.append(given, offset, n_bytes, file)
            file.write(bytes(padded(n_bytes, alignment) - n_bytes))


def _before_infos(path: Path, reader: gguf_reader.Reader, n_tensors: int, changes: Mapping[str, str]) -> bytes:
    """Magic, counts and metadata: all that stands before the first tensor's description. The number of tensors is the
    given one; entries that change stay in their places."""
    with path.open("rb") as file:
        raw = file.read(int(reader.tensors[0].field.offset))
    changed = {int(reader.fields[key].offset): (key, text) for key, text in changes.items() if key in reader.fields}
    for start in sorted(changed, reverse=True):
        key, text = changed[start]
        end = start + sum(int(piece.nbytes) for piece in reader.fields[key].parts)
        raw = raw[:start] + metadata.entry(key, text) + raw[end:]
    return raw[:8] + struct.pack("<Q", n_tensors) + raw[16:]


def _info(name: str, tensor: gguf.ReaderTensor, offset: int) -> bytes:
    """A tensor's description (GGUF 3): name, dimensions, type, offset of its data."""
    shape = [int(n) for n in tensor.shape]
    return (
        metadata.string(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", int(tensor.tensor_type), offset)
    )
