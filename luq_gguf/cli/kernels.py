"""luq-gguf kernels: faster IQ1_M and IQ1_S for stock llama.cpp, built where they are not, and what they gain here."""

from __future__ import annotations

import os

import click

from luq_gguf.cli import options, output


@click.command("kernels")
@click.option("--path", "only_path", is_flag=True, help="Print only the library's path; build it if it is missing.")
@options.as_json
def command(*, only_path: bool, as_json: bool) -> None:
    """Build the kernels if they are missing, show which path this CPU takes, and measure their speedup for 5 seconds.

    \b
    export GGML_BACKEND_PATH=$(luq-gguf kernels --path)
    llama-mtmd-cli -m FILE.gguf ...
    llama-server -m FILE.gguf -ot '^$=CPU'
    LUQ_KERNELS=auto|avx512|avxvnni|avx512vl|avx2|neon|portable|portable-t5|off forces a path.
    """
    from luq_gguf.kernels import build, measure, state
    from luq_gguf.method.metrics.intervals import format_ratio

    library = build.library(output.info)
    if only_path:
        click.echo(library)
        return
    status = state.of(library)
    gain = measure.gain(library) if status.path else None
    if as_json:
        facts = {"library": str(library), "path": status.path, "bits_per_weight": status.bits_per_weight}
        output.print_json({"built": True} | facts | {"gain": gain.to_json() if gain else None})
        return
    click.echo(f"library  {library}")
    if not gain:
        wish = os.environ.get("LUQ_KERNELS")
        click.echo("path     none: " + ("disabled by LUQ_KERNELS" if wish == "off" else "this CPU is not supported"))
        return
    click.echo(f"path     {status.path}, {status.bits_per_weight:.3f} bits per weight in memory")
    click.echo(f"gain     {format_ratio(gain)} times stock IQ1_M: {gain.conditions}")
    click.echo(f"use      export GGML_BACKEND_PATH={library}")
    click.echo("         llama-mtmd-cli -m FILE.gguf ..., llama-server -m FILE.gguf -ot '^$=CPU'")
