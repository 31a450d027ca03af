"""luq-gguf convert: from a checkpoint to the file, all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output


@click.command("convert")
@click.argument("model")
@options.out
@options.calibration
@options.types
@options.budget
@options.device
@options.threads
@options.files
@click.option(
    "--upload", "repo", metavar="USER/NAME", help="Publish on the Hub when done; write access is checked first."
)
@options.hub
@options.subfolder
@options.trust
@options.permissions("--overwrite", "--allow-fallback")
@options.as_json
def command(
    model: str,
    out: Path,
    calib: str | None,
    calib_text: str | None,
    alpha: float,
    samples: int,
    seed: int,
    repo: str | None,
    *,
    as_json: bool,
    **rest: Any,
) -> None:
    """Convert MODEL (a checkpoint folder or a Hub id) to a LUQ GGUF file in the folder --out.

    \b
    luq-gguf convert Qwen/Qwen2.5-VL-7B-Instruct --out out/ --target-size 3.4GiB
    """
    plan_request = options.make_plan_request(rest, seed)
    how = options.make_run_options(rest)
    options.check_files(how, measures=plan_request.measures)
    from luq_gguf.calibration.stage import CalibrationRequest
    from luq_gguf.core.units import format_size
    from luq_gguf.workflows import pipeline

    request = CalibrationRequest(calib, calib_text, alpha, samples, seed)
    target, base_model = options.make_target(repo, rest)
    with output.reporter() as reporter:
        if target:
            from luq_gguf.publishing import upload

            upload.check(target, base_model)  # hours before it is needed
        result = pipeline.convert(model, out, plan_request, request, how, reporter)
        published = upload.upload(out, target, base_model=base_model, reporter=reporter) if target else None
    if as_json:
        output.print_json(result.to_json() | ({"upload": published.to_json()} if published else {}))
        return
    output.print_table(output.profile_table(result.profile, result.plan.low_layers))
    click.echo(output.agreement_line(result.profile))
    for line in output.plan_lines(result.plan):
        click.echo(line)
    click.echo(f"model   {result.model.path}  ({format_size(result.model.n_bytes)}, every tensor as planned)")
    if result.mmproj:
        click.echo(f"mmproj  {result.mmproj}  ({format_size(result.mmproj.stat().st_size)})")
        click.echo(
            f"\nTry it: llama-mtmd-cli -m {output.shell_path(result.model.path)} --mmproj "
            f"{output.shell_path(result.mmproj)} --image IMAGE -p QUESTION"
        )
    else:
        click.echo(f"\nTry it: llama-cli -m {output.shell_path(result.model.path)}")
    if published:
        click.echo(f"\npublished  {published.pull_request or published.url}")
    if result.better:
        click.echo(f"\n{result.better}")
