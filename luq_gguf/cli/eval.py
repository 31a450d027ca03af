"""luq-gguf eval: how good a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting import tables
from luq_gguf.reporting.progress import progress

FILE = options.UserPath(exists=True, dir_okay=False, path_type=Path)


@click.command("eval")
@click.argument("file", type=FILE)
@click.option("--reference", type=FILE, help="The 16-bit GGUF file of the same checkpoint, for KL divergence.")
@options.questions
@options.benchmarks
@click.option("--mmproj", type=FILE, help="The vision half.  [default: the only mmproj next to FILE]")
@options.threads
@options.gpu_layers
@options.as_json
def command(
    file: Path,
    reference: Path | None,
    mmproj: Path | None,
    threads: int | None,
    *,
    gpu_layers: int | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Measure FILE on questions about images, on text, or on benchmarks.

    In a run folder, the result is also written to eval.json. Measurements are kept: repeating one takes no time, and an
    interrupted one resumes where it stopped.
    """
    from luq_gguf import api

    with progress() as reporter:
        result = api.evaluate(
            file,
            options.make_questions(rest),
            reference=reference,
            mmproj=mmproj,
            threads=threads,
            gpu_layers=gpu_layers,
            benchmarks=options.make_benchmarks(rest),
            reporter=reporter,
        )
    if as_json:
        output.print_json(result.to_json())
        return
    output.print_table(tables.eval_table(result))
