"""imatrix.gguf: llama.cpp's importance matrix file (tools/imatrix/imatrix.cpp), written and read through `gguf`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import reader as gguf_reader


def write(path: Path, matrix: ImportanceMatrix, datasets: Sequence[str], chunk_size: int) -> None:
    """Write sums and counts as F32, as llama-imatrix does. `datasets` are names, never paths."""
    writer = gguf.GGUFWriter(path, arch="imatrix")
    # The format has a type and no architecture; GGUFWriter always writes one, which its readers ignore.
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", max(1, matrix.n_samples))
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for name in sorted(matrix.in_sum2):
        sums = matrix.in_sum2[name].astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", matrix.counts[name].astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> ImportanceMatrix:
    """Read sums and counts. Raises GGUFFileError where the file is not an importance matrix."""
    wrong = GGUFFileError(f"{path} is not a readable importance matrix.", "Run luq-gguf profile.")
    try:
        reader = gguf_reader.open_reader(path)
    except OSError as error:
        raise GGUFFileError(f"{path} cannot be read: {error.strerror}.", wrong.hint) from None
    read = [tensor for tensor in reader.tensors if tensor.name.endswith((".in_sum2", ".counts"))]
    if any(tensor.tensor_type != gguf.GGMLQuantizationType.F32 for tensor in read):
        raise wrong
    tensors = {tensor.name: np.asarray(tensor.data, dtype=np.float64) for tensor in read}
    if any(not (np.isfinite(values) & (values >= 0) & (values < 2**62)).all() for name, values in tensors.items()):
        raise wrong
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    counts = {name: tensors.get(f"{name}.counts", np.empty(0)).reshape(-1).astype(np.int64) for name in names}
    if not names or any(not n.size or tensors[f"{name}.in_sum2"].size % n.size for name, n in counts.items()):
        raise wrong
    chunks = reader.fields.get("imatrix.chunk_count")
    n_samples = chunks.contents() if chunks else None
    if not isinstance(n_samples, int):
        raise wrong
    return ImportanceMatrix(
        {name: tensors[f"{name}.in_sum2"].reshape(counts[name].size, -1) for name in names},
        counts,
        n_samples,
    )
