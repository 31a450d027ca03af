"""luq-gguf verify: whether a run folder or a GGUF file is what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting.progress import progress


@click.command("verify")
@click.argument("target", type=options.UserPath(path_type=Path))
@click.option(
    "--mmproj", type=options.UserPath(path_type=Path), help="Also check this mmproj, if TARGET is a GGUF file."
)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="Also measure how far llama.cpp's predictions are from those of this checkpoint (a folder or a Hub id) in "
    "transformers.",
)
@options.device
@options.trust
@click.option("--threads", type=click.IntRange(1), help="Threads for llama.cpp.  [default: all cores]")
@options.as_json
def command(
    target: Path, mmproj: Path | None, threads: int | None, against: str | None, *, as_json: bool, **rest: Any
) -> int:
    """Check a run folder (hashes, types, mmproj) or a GGUF file (structure, loading, finite logits).

    --against compares the 16-bit file, if a run folder has it, or else the file as it is, on two samples of the
    calibration set, or on two drawn pictures: mean KL divergence and same most probable token, before and behind the
    picture, and which tokens of the prompt differ. A large divergence is told and is no failure.

    The exit code is 0 if everything is correct, and 1 if something is wrong.
    """
    from luq_gguf import api

    how = options.make_run_options(rest)
    with progress() as reporter:
        report = api.verify(target, mmproj=mmproj, threads=threads, against=against, options=how, reporter=reporter)
    return output.print_checks(f"luq-gguf verify {target}", report, "wrong", as_json=as_json)
