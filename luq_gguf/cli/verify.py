"""luq-gguf verify: whether a run folder or a GGUF file is what it should be."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output


@click.command("verify")
@click.argument("target", type=options.UserPath(path_type=Path))
@click.option(
    "--mmproj", type=options.UserPath(path_type=Path), help="Also check this mmproj, if TARGET is a GGUF file."
)
@click.option("--threads", type=click.IntRange(1), help="Threads for llama.cpp.  [default: all cores]")
@options.as_json
def command(target: Path, mmproj: Path | None, threads: int | None, *, as_json: bool) -> int:
    """Check a run folder (hashes, types, mmproj) or a GGUF file (structure, loading, finite logits).

    The exit code is 0 if everything is correct, and 1 if something is wrong.
    """
    from luq_gguf import api

    report = api.verify(target, mmproj=mmproj, threads=threads)
    return output.print_checks(f"luq-gguf verify {target}", report, "wrong", as_json=as_json)
