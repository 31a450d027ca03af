"""luq-gguf convert: from a checkpoint to the file, all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.core.units import format_size
from luq_gguf.reporting import agreement_text, picture_text, tables
from luq_gguf.reporting.progress import progress


@click.command("convert")
@click.argument("model")
@options.out
@options.calibration
@options.types
@options.budget
@options.rules
@options.imatrix
@options.device
@options.threads
@options.files
@click.option(
    "--check",
    is_flag=True,
    help="Compare llama.cpp's predictions with the 16-bit file with those of MODEL in transformers.",
)
@click.option(
    "--also",
    type=options.Listed(click.STRING),
    default=(),
    metavar="LIST",
    help="llama-quantize's own files beside the LUQ files, with the same importance, e.g. Q4_K_M,IQ3_XXS.",
)
@click.option(
    "--upload", "repo", metavar="USER/NAME", help="Publish on the Hub when done; write access is checked first."
)
@options.hub
@options.subfolder
@options.trust
@options.permissions("--overwrite", "--allow-fallback")
@options.as_json
def command(
    model: str, out: Path, repo: str | None, also: tuple[str, ...], *, check: bool, as_json: bool, **rest: Any
) -> None:
    """Convert MODEL (a checkpoint folder or a Hub id) to a LUQ GGUF file in the folder --out, or to files of several
    sizes, which one calibration and one 16-bit file are enough for.

    \b
    luq-gguf convert Qwen/Qwen2.5-VL-7B-Instruct --out out/ --target-size 3.4GiB
    luq-gguf convert Qwen/Qwen2.5-VL-7B-Instruct --out out/ --target-size 2.6GiB,3.4GiB --also Q4_K_M
    """
    calibration, wanted = options.make_calibration(rest), options.make_plan_arguments(rest)
    target, base_model = options.make_target(repo, rest)
    how = options.make_run_options(rest)
    from luq_gguf import api

    with progress() as reporter:
        result = api.convert(
            model, out, calibration=calibration, **wanted, also=also, target=target, base_model=base_model, check=check,
            options=how, reporter=reporter,
        )  # fmt: skip
    if as_json:
        output.print_json(result.to_json())
        return
    if result.profile:
        output.print_table(output.profile_table(result.profile, result.plan.low_layers))
        click.echo(output.agreement_line(result.profile))
    several = len(result.files) > 1
    if several:
        output.print_table(tables.files_table([(file.model, file.plan) for file in result.files]))
    else:
        for line in output.plan_lines(result.plan):
            click.echo(line)
    click.echo(f"model   {result.model.path}  ({format_size(result.model.n_bytes)}, every tensor as planned)")
    if result.mmproj:
        click.echo(f"mmproj  {result.mmproj}  ({format_size(result.mmproj.stat().st_size)})")
        limits = "".join(f" {part}" for part in result.pictures.limits.arguments)
        click.echo(
            f"\nTry it: llama-mtmd-cli -m {output.shell_path(result.model.path)} --mmproj "
            f"{output.shell_path(result.mmproj)}{limits} --image IMAGE -p QUESTION"
        )
        for line in picture_text.shown_lines(result.pictures, output.shell_path(result.run_dir)):
            click.echo(line)
    else:
        click.echo(f"\nTry it: llama-cli -m {output.shell_path(result.model.path)}")
    if result.agreement:
        for line in agreement_text.lines(result.agreement):
            click.echo(line)
    if result.upload:
        click.echo(f"\npublished  {result.upload.pull_request or result.upload.url}")
    for file in result.files:
        if file.better:
            click.echo(f"\n{file.model.path.name + ': ' if several else ''}{file.better}")
