"""What types would do to matrices, from a few rows of each that ggml quantizes on the spot: seconds, and no variants.

    python -m luq_gguf.llamacpp.sampled_errors JOB

is run as a child process; JOB is a JSON file that says what is wanted and where to write it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import quants

from luq_gguf.core.errors import ConversionError
from luq_gguf.llamacpp import blocks, child, tools
from luq_gguf.llamacpp.gguf import imatrix as imatrix_file
from luq_gguf.llamacpp.gguf import quant_error

ROWS = 16


def sampled_errors(source: Path, imatrix: Path, types: Mapping[str, Collection[str]]) -> dict[str, dict[str, float]]:
    """Return relative output errors (llamacpp/gguf/quant_error.py) of each matrix in each of its `types` types: name ->
    type -> error."""
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.json"
        listed = {name: sorted(kinds) for name, kinds in types.items()}
        job.write_text(json.dumps({"source": str(source), "imatrix": str(imatrix), "out": str(out), "wanted": listed}))
        command: list[str | Path] = [tools.python(), "-m", "luq_gguf.llamacpp.sampled_errors", job]
        child.run(command, child.Failure(ConversionError, "ggml's quantizer"))
        errors: dict[str, dict[str, float]] = json.loads(out.read_text())
        return errors


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tensors = quant_error.tensors_of(Path(job["source"]))
    importance, ggml = imatrix_file.read(Path(job["imatrix"])), blocks.library()
    errors: dict[str, dict[str, float]] = {}
    for name, kinds in job["wanted"].items():
        rows = quant_error.rows_of(tensors[name], ROWS)
        weights = quant_error.values_of(tensors[name], rows)
        columns = quant_error.columns_of(importance, tensors[name], rows)
        errors[name] = {}
        for kind in kinds:
            number = gguf.GGMLQuantizationType[kind]
            quantized = blocks.quantized_rows(ggml, kind, weights, np.broadcast_to(columns, weights.shape))
            errors[name][kind] = quant_error.share_lost(weights, quants.dequantize(quantized, number), columns)
    Path(job["out"]).write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
