"""luq-gguf eval: how good a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.json_value import given
from luq_gguf.method.metrics import pairs
from luq_gguf.reporting import tables
from luq_gguf.reporting.progress import progress

FILE = options.UserPath(exists=True, dir_okay=False, path_type=Path)


@click.command("eval")
@click.argument("file", metavar="FILE|RUN_DIR", type=options.UserPath(exists=True, path_type=Path))
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
    """Measure FILE on questions about images, on text, or on benchmarks; or all model files of a run folder on the same
    questions, against its 16-bit file, which is made for that if it is not there.

    In a run folder, the result is also written to eval.json. Measurements are kept: repeating one takes no time, and an
    interrupted one resumes where it stopped.

    --against shows where quality is lost: accuracy and KL divergence of the checkpoint in transformers, of the 16-bit
    file given with --reference, and of FILE.
    """
    from luq_gguf import api

    questions, benchmarks = options.make_questions(rest), options.make_benchmarks(rest)
    shared: dict[str, Any] = {
        "threads": threads, "gpu_layers": gpu_layers, "fit_images": fit_images, "against": against,
        "options": options.make_run_options(rest),
    }  # fmt: skip
    with progress() as reporter:
        if file.is_dir():
            if reference or mmproj or benchmarks:
                raise click.UsageError("--reference, --mmproj and --benchmarks are for a FILE, not for a run folder.")
            results = api.evaluate_run(file, questions, **shared, reporter=reporter)
        else:
            files = {"reference": reference, "mmproj": mmproj, "benchmarks": benchmarks}
            results = (api.evaluate(file, questions, **files, **shared, reporter=reporter),)
    differences = pairs.all_between(results)
    if as_json:
        contents = [result.to_json() for result in results]
        paired = {"differences": [difference.to_json() for difference in differences]}
        output.print_json({"files": contents, **paired} if file.is_dir() else contents[0])
        return
    for result in results:
        output.print_table(tables.eval_table(result))
        if compared := given(result.against):
            output.print_table(tables.reference_table(compared))
    if len(results) > 1:
        output.print_table(tables.evals_table(results))
    if differences:
        output.print_table(tables.differences_table(differences))
