"""luq-gguf plan: from a profile and a budget to a type for every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import options, output
from luq_gguf.reporting.progress import progress


@click.command("plan")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
@options.types
@options.budget
@options.rules
@options.imatrix
@click.option("--seed", default=0, show_default=True, help="Seed for --rank random and --plan best.")
@options.profiled_model
@options.threads
@options.trust
@options.permissions("--allow-fallback")
@options.as_json
def command(run_dir: Path, seed: int, *, as_json: bool, **rest: Any) -> None:
    """Write plan.json and tensor-types.txt into RUN_DIR, a run folder that luq-gguf profile has made, or a new one for
    a GGUF file."""
    wanted, how = options.make_plan_arguments(rest), options.make_run_options(rest)
    if isinstance(wanted["budget"], list):
        raise click.UsageError("A plan has one budget: luq-gguf convert takes several, and makes a file of each.")
    from luq_gguf import api
    from luq_gguf.reporting.plan_text import better_line

    with progress() as reporter:
        plan = api.plan(run_dir, **wanted, seed=seed, options=how, reporter=reporter, **rest)
    if as_json:
        output.print_json(plan.to_json())
        return
    for line in [*output.plan_lines(plan), *filter(None, [better_line(plan)])]:
        click.echo(line)
    click.echo(f"plan   {run_dir / 'plan.json'}\ntypes  {run_dir / 'tensor-types.txt'}")
