"""imatrix.gguf: llama.cpp's importance matrix file (tools/imatrix/imatrix.cpp), written and read through `gguf`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from luq_gguf.errors import GGUFFileError
from luq_gguf.values import ImportanceMatrix


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
        writer.add_tensor(f"{name}.in_sum2", sums.reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.array([[matrix.counts[name]]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> ImportanceMatrix:
    """Read sums and counts. Raises GGUFFileError where the file is no importance matrix of dense layers."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: np.asarray(tensor.data, dtype=np.float64) for tensor in reader.tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    if not names or any(f"{name}.counts" not in tensors or tensors[f"{name}.counts"].size != 1 for name in names):
        raise GGUFFileError(f"{path} is no importance matrix that can be read here.", "Run luq-gguf profile.")
    return ImportanceMatrix(
        {name: tensors[f"{name}.in_sum2"].reshape(-1) for name in names},
        {name: int(tensors[f"{name}.counts"].item()) for name in names},
        int(reader.fields["imatrix.chunk_count"].contents()),
    )
