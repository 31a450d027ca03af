"""luq-gguf quantize: write what the plan describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting.progress import progress


@click.command("quantize")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
@options.threads
@options.files
@options.rules
@options.imatrix
@options.profiled_model
@options.trust
@options.permissions()
@options.as_json
def command(
    run_dir: Path,
    model: str | None,
    imatrix: Path | None,
    *,
    as_json: bool,
    **rest: Any,
) -> None:
    """Write the GGUF file and mmproj of RUN_DIR's plan.json, and compare every tensor's type with the plan."""
    how, obeyed = options.make_run_options(rest), options.make_rules(rest)
    from luq_gguf import api
    from luq_gguf.core.units import format_size

    with progress() as reporter:
        result = api.quantize(run_dir, rules=obeyed, model=model, imatrix=imatrix, options=how, reporter=reporter)
    if as_json:
        output.print_json(result.to_json())
        return
    click.echo(f"model   {result.model.path}  ({format_size(result.model.n_bytes)}, every tensor as planned)")
    if result.mmproj:
        click.echo(f"mmproj  {result.mmproj}  ({format_size(result.mmproj.stat().st_size)})")
