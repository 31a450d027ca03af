"""What types would do to matrices, from a few rows of each that ggml quantizes on the spot: seconds, and no variants.

    python -m luq_gguf.llamacpp.sampled_errors JOB

is run as a child process; JOB is a JSON file that says what is wanted and where to write it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT

import gguf
from gguf import quants

from luq_gguf.core.errors import ConversionError
from luq_gguf.llamacpp import blocks, child, tools
from luq_gguf.llamacpp.gguf import imatrix as imatrix_file
from luq_gguf.llamacpp.gguf import quant_error, reader

ROWS = 16
_FAILURE = child.Failure(ConversionError, "ggml's quantizer")
Errors = dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Job:
    """A child process to be: its command, and the file that it writes the errors to."""

    command: Sequence[str | Path]
    out: Path

    def errors(self) -> Errors:
        errors: Errors = json.loads(self.out.read_text())
        return errors


@contextmanager
def _job(source: Path, imatrix: Path, types: Mapping[str, Collection[str]], rows: int) -> Iterator[_Job]:
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.json"
        listed = {name: sorted(kinds) for name, kinds in types.items()}
        facts = {"source": str(source), "imatrix": str(imatrix), "out": str(out), "wanted": listed, "rows": rows}
        job.write_text(json.dumps(facts))
        yield _Job([tools.python(), "-m", "luq_gguf.llamacpp.sampled_errors", job], out)


@contextmanager
def computing(source: Path, imatrix: Path, types: Mapping[str, Collection[str]]) -> Iterator[Callable[[], Errors]]:
    """Compute `sampled_errors` of ROWS rows inside this context, beside what else is done in it; yield a function that
    waits for them. The tables of the smallest types take seconds of a single core."""
    with (
        _job(source, imatrix, types, ROWS) as job,
        tempfile.TemporaryFile("w+", errors="replace") as log,
        child.started(job.command, os.environ, stdout=log, stderr=STDOUT) as running,
    ):

        def wait() -> Errors:
            code = child.wait(running)
            log.seek(0)
            child.check(code, child.Output(lines=log.read().splitlines()), _FAILURE, None)
            return job.errors()

        yield wait


def sampled_errors(
    source: Path,
    imatrix: Path,
    types: Mapping[str, Collection[str]],
    rows: int = ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Errors:
    """Return relative output errors (llamacpp/gguf/quant_error.py) of each matrix in each of its `types` types: name ->
    type -> error, by some of its rows."""
    done = itertools.count(1)
    with _job(source, imatrix, types, rows) as job:
        child.run(job.command, _FAILURE, on_line=lambda line: progress(next(done), len(types)))
        return job.errors()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tensors = quant_error.tensors_of(Path(job["source"]))
    importance, ggml = imatrix_file.read(Path(job["imatrix"])), blocks.library()
    errors: Errors = {}
    for name, kinds in job["wanted"].items():
        rows = quant_error.rows_of(tensors[name], job["rows"])
        weights = quant_error.values_of(tensors[name], rows)
        columns = quant_error.columns_of(importance, tensors[name], rows)
        known = name in importance.in_sum2
        errors[name] = {}
        for kind in kinds:
            number = gguf.GGMLQuantizationType[kind]
            told = columns if known or kind in reader.IMATRIX_TYPES else None
            quantized = blocks.quantized_rows(ggml, kind, weights, told)
            errors[name][kind] = quant_error.share_lost(weights, quants.dequantize(quantized, number), columns)
        print(name, flush=True)
    Path(job["out"]).write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
