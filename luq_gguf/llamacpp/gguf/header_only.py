"""A GGUF with the real header and no data: what llama-quantize's dry run needs, in seconds and a few kilobytes.

The tensors' room is a hole in a sparse file. With it every type and byte of a plan is known before any weight of the
checkpoint has been read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import metadata as gguf_metadata
from luq_gguf.llamacpp.gguf import reader as gguf_reader
from luq_gguf.llamacpp.gguf import validate

IMATRIX_NAME = "imatrix.gguf"  # the path llama-quantize is given, and writes into the file
ALIGNMENT = 32


def write(
    out: Path,
    metadata: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    changes: Mapping[str, object] | None = None,
) -> gguf_reader.GGUFInfo:
    """Write the metadata of another GGUF file, and the headers of tensors of these types and shapes (torch order).

    `changes` are metadata that get other values; what is None is left out.
    """
    reader = gguf_reader.Reader(metadata)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        value = changes[name] if changes and name in changes else field.contents()
        if value is not None:
            writer.add_key_value(name, value, kind, sub)
    for name, value in (changes or {}).items():
        if name not in reader.fields and value is not None:
            writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    n_bytes = 0
    for name, (tensor_type, shape) in tensors.items():
        size = gguf_reader.type_bytes(tensor_type, int(np.prod(shape)))
        row = gguf_reader.type_bytes(tensor_type, shape[-1])
        raw = gguf.GGMLQuantizationType[tensor_type]
        # this writer wants the shape of types that numpy does not know in bytes
        writer.add_tensor_info(name, (*shape[:-1], row), np.dtype(np.uint8), size, raw_dtype=raw)
        n_bytes += padded(size, ALIGNMENT)
    if "general.size_label" not in reader.fields:  # needs the number of weights, so metadata alone lacks it
        writer.add_string("general.size_label", gguf.size_label(*writer.get_total_parameter_count()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = padded(out.stat().st_size, ALIGNMENT)
    with out.open("r+b") as file:
        file.truncate(start + n_bytes)
    return gguf_reader.read(out)


def quantized_header_bytes(
    source: gguf_reader.GGUFInfo,
    datasets: tuple[str, ...],
    labels: gguf_metadata.Entries | None = None,
    imatrix: str = IMATRIX_NAME,
) -> int:
    """Return the header size of the file that llama-quantize makes of `source`: it adds four entries about the
    `imatrix`, which is the path that it is given, and the `labels` that it is told to set.

    Source: tools/quantize/quantize.cpp (key-value overrides) and GGUF's layout of key-value pairs; a value is cut at
    127 bytes there.
    """

    def string(text: str) -> int:
        return 8 + len(text.encode())

    entries = string("quantize.imatrix.file") + 4 + string(imatrix)
    if datasets:
        entries += string("quantize.imatrix.dataset") + 4 + 8 + len(datasets[0].encode()[:127])
    entries += string("quantize.imatrix.entries_count") + 4 + 4
    entries += string("quantize.imatrix.chunks_count") + 4 + 4
    entries += gguf_metadata.growth(source.metadata, labels or {})
    return padded(validate.check(source.path).end + entries, ALIGNMENT)
