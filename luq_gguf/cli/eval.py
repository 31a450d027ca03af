"""luq-gguf eval: how good a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.json_value import given
from luq_gguf.reporting import tables
from luq_gguf.reporting.progress import progress

FILE = options.UserPath(exists=True, dir_okay=False, path_type=Path)


@click.command("eval")
@click.argument("file", type=FILE)
@click.option("--reference", type=FILE, help="The 16-bit GGUF file of the same checkpoint, for KL divergence.")
@options.questions
@options.benchmarks
@click.option(
    "--fit-images",
    is_flag=True,
    help="First resize the pictures of --data as the checkpoint's own processor does (see luq-gguf fit). FILE must be "
    "in its run folder, unless --against names the checkpoint.",
)
@click.option("--mmproj", type=FILE, help="The vision half.  [default: the only mmproj next to FILE]")
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="Also ask this checkpoint (a folder or a Hub id) in transformers the same questions.",
)
@options.device
@options.trust
@options.threads
@options.gpu_layers
@options.as_json
def command(
    file: Path,
    reference: Path | None,
    mmproj: Path | None,
    threads: int | None,
    against: str | None,
    *,
    gpu_layers: int | None,
    fit_images: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Measure FILE on questions about images, on text, or on benchmarks.

    In a run folder, the result is also written to eval.json. Measurements are kept: repeating one takes no time, and an
    interrupted one resumes where it stopped.

    --against shows where quality is lost: accuracy and KL divergence of the checkpoint in transformers, of the 16-bit
    file given with --reference, and of FILE.
    """
    from luq_gguf import api

    with progress() as reporter:
        result = api.evaluate(
            file,
            options.make_questions(rest),
            reference=reference,
            mmproj=mmproj,
            threads=threads,
            fit_images=fit_images,
            gpu_layers=gpu_layers,
            benchmarks=options.make_benchmarks(rest),
            against=against,
            options=options.make_run_options(rest),
            reporter=reporter,
        )
    if as_json:
        output.print_json(result.to_json())
        return
    output.print_table(tables.eval_table(result))
    if compared := given(result.against):
        output.print_table(tables.reference_table(compared))
