"""What types would do to matrices, from a few rows of each that ggml quantizes on the spot: seconds, and no variants.

    python -m luq_gguf.llamacpp.sampled_errors JOB

is run as a child process; JOB is a JSON file that says what is wanted and where to write it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import STDOUT

import gguf
import numpy as np
from gguf import quants

from luq_gguf.core.errors import ConversionError
from luq_gguf.llamacpp import blocks, child, tools
from luq_gguf.llamacpp.gguf import imatrix as imatrix_file
from luq_gguf.llamacpp.gguf import quant_error

ROWS = 16


Errors = dict[str, dict[str, float]]


@contextmanager
def computing(source: Path, imatrix: Path, types: Mapping[str, Collection[str]]) -> Iterator[Callable[[], Errors]]:
    """Compute `sampled_errors` inside this context, beside what else is done in it; yield a function that waits for
    them. The tables of the smallest types take seconds of a single core."""
    with tempfile.TemporaryDirectory() as folder:
        job, out, log = (Path(folder) / name for name in ("job.json", "out.json", "log.txt"))
        listed = {name: sorted(kinds) for name, kinds in types.items()}
        job.write_text(json.dumps({"source": str(source), "imatrix": str(imatrix), "out": str(out), "wanted": listed}))
        command: list[str | Path] = [tools.python(), "-m", "luq_gguf.llamacpp.sampled_errors", job]
        with log.open("w") as file, child.started(command, os.environ, stdout=file, stderr=STDOUT) as running:

            def wait() -> Errors:
                code = child.wait(running)
                output = child.Output(lambda line: None)
                output.lines.extend(log.read_text(errors="replace").splitlines())
                child.check(code, output, child.Failure(ConversionError, "ggml's quantizer"), None)
                errors: Errors = json.loads(out.read_text())
                return errors

            yield wait


def sampled_errors(source: Path, imatrix: Path, types: Mapping[str, Collection[str]]) -> Errors:
    """Return relative output errors (llamacpp/gguf/quant_error.py) of each matrix in each of its `types` types: name ->
    type -> error."""
    with computing(source, imatrix, types) as wait:
        return wait()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tensors = quant_error.tensors_of(Path(job["source"]))
    importance, ggml = imatrix_file.read(Path(job["imatrix"])), blocks.library()
    errors: Errors = {}
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
