"""Rows of matrices and what types make of them, quantized on the spot by ggml with the run's importance: for stages
that need the errors themselves, not only how large they are. No file of the model is made for it.

    python -m luq_gguf.llamacpp.sampled_rows JOB

is run as a child process; JOB is a JSON file that says what is wanted and where to write it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

from luq_gguf.core.errors import ConversionError
from luq_gguf.llamacpp import blocks, child, tools
from luq_gguf.llamacpp.gguf import imatrix as imatrix_file
from luq_gguf.llamacpp.gguf import quant_error

HOW = 2  # in what way rows are quantized: what was made in another one is not read


@dataclass(frozen=True)
class SampledRows:
    """Rows spread evenly over a matrix of `n_rows` rows (those of a mixture's experts one behind the other).

    `numbers` int64 [n] are theirs, `weights` float32 [n, n_in] what the 16-bit file has; `changes` float16
    [n_types, n, n_in] what each of the `types` adds to that; `errors` [n_types] are the relative errors of the output
    (gguf/quant_error.py).
    """

    types: tuple[str, ...]
    n_rows: int
    numbers: np.ndarray
    weights: np.ndarray
    changes: np.ndarray
    errors: np.ndarray


def make(
    source: Path, imatrix: Path, types: Mapping[str, Collection[str]], folder: Path, rows: int = quant_error.ROWS
) -> None:
    """Write the rows of every named matrix of a 16-bit file, in each of its types, to files in a folder, for `read`."""
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "job.json"
    listed = {name: sorted(kinds) for name, kinds in types.items()}
    content = {"source": str(source), "imatrix": str(imatrix), "out": str(folder), "wanted": listed, "rows": rows}
    job.write_text(json.dumps(content))
    command: list[str | Path] = [tools.python(), "-m", "luq_gguf.llamacpp.sampled_rows", job]
    child.run(command, child.Failure(ConversionError, "ggml's quantizer"))


def read(folder: Path, name: str) -> SampledRows:
    """Return the rows of one matrix; `changes`, which are most of it, stay in their file."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    changes = _changes_file(folder, name)
    content["changes"] = np.load(changes, mmap_mode="c", allow_pickle=False)  # torch takes writable arrays
    return SampledRows(tuple(map(str, content.pop("types"))), int(content.pop("n_rows")), **content)


def _changes_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.changes.npy"


def sampled(
    tensor: gguf.ReaderTensor, kinds: Collection[str], columns: np.ndarray, rows: np.ndarray, n_rows: int
) -> dict[str, np.ndarray]:
    """Return the arrays of one matrix; columns [n or 1, n_in] are mean squared inputs."""
    weights, ggml = quant_error.values_of(tensor, rows), blocks.library()
    changes, errors = [], []
    for kind in kinds:
        quantized = blocks.quantized_rows(ggml, kind, weights, np.broadcast_to(columns, weights.shape))
        values = quants.dequantize(quantized, gguf.GGMLQuantizationType[kind])
        changes.append(np.asarray(values - weights, np.float16))
        errors.append(quant_error.share_lost(weights, values, columns))
    return {
        "types": np.array(list(kinds)),
        "n_rows": np.array(n_rows),
        "numbers": rows,
        "weights": weights,
        "changes": np.array(changes, np.float16),
        "errors": np.array(errors),
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tensors = quant_error.tensors_of(Path(job["source"]))
    importance = imatrix_file.read(Path(job["imatrix"]))
    for name, kinds in job["wanted"].items():
        tensor = tensors[name]
        rows, n_rows = quant_error.rows_of(tensor, job["rows"]), quant_error.n_rows_of(tensor)
        columns = quant_error.columns_of(importance, tensor, rows)
        arrays = sampled(tensor, kinds, columns, rows, n_rows)
        np.save(_changes_file(Path(job["out"]), name), arrays.pop("changes"))
        np.savez(Path(job["out"]) / f"{name}.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
