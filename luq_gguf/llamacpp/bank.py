"""The layer bank: any choice of low layers as a file, spliced from one with all layers low and one with none.

llama-quantize computes a tensor from its weights and its importance alone, so a spliced file has the bytes it would
have written itself; what it writes around them (metadata, order, padding) is copied. Hours of quantizing become
seconds of copying.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import gguf

from luq_gguf.errors import VerificationError
from luq_gguf.llamacpp import gguf_files


def splice(low: Path, high: Path, types: Mapping[str, str], out: Path) -> None:
    """Write the file that has each tensor in the given type, taking it from whichever of the two holds it so.

    Raises VerificationError naming a tensor that neither holds in its type.
    """
    readers = {path: gguf_files.open_reader(path) for path in (high, low)}
    held = {path: {tensor.name: tensor for tensor in reader.tensors} for path, reader in readers.items()}
    alignment = readers[high].alignment
    chosen, infos, at = [], b"", 0
    for name in held[high]:
        source = next((p for p in (high, low) if held[p][name].tensor_type.name == types[name]), None)
        if source is None:
            raise VerificationError(f"The layer bank holds no {name} in {types[name]}.", "Run the same command again.")
        tensor = held[source][name]
        chosen.append((source, int(tensor.data_offset), int(tensor.n_bytes)))
        infos += _info(name, tensor, at)
        at += -(-int(tensor.n_bytes) // alignment) * alignment
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as file:
            head = _before_infos(high, readers[high]) + infos
            file.write(head + bytes(-len(head) % alignment))
            for source, offset, n_bytes in chosen:
                with source.open("rb") as given:
                    _copy(given, offset, n_bytes, file)
                file.write(bytes(-n_bytes % alignment))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _before_infos(path: Path, reader: gguf.GGUFReader) -> bytes:
    """Magic, counts and metadata: all that stands before the first tensor's description."""
    with path.open("rb") as file:
        return file.read(int(reader.tensors[0].field.offset))


def _info(name: str, tensor: gguf.ReaderTensor, offset: int) -> bytes:
    """A tensor's description (GGUF 3): name, dimensions, type, offset of its data."""
    raw = name.encode()
    shape = [int(n) for n in tensor.shape]
    return (
        struct.pack("<Q", len(raw))
        + raw
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", int(tensor.tensor_type), offset)
    )


def _copy(source: BinaryIO, offset: int, n_bytes: int, target: BinaryIO) -> None:
    """Copy bytes; on file systems that can, without moving them through memory."""
    target.flush()
    done = 0
    while done < n_bytes:
        try:
            moved = os.copy_file_range(source.fileno(), target.fileno(), n_bytes - done, offset + done)
        except OSError:
            moved = 0
        if not moved:
            break
        done += moved
    source.seek(offset + done)
    target.seek(0, os.SEEK_END)
    while done < n_bytes:
        block = source.read(min(2**24, n_bytes - done))
        target.write(block)
        done += len(block)
