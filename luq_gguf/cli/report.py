"""luq-gguf report: a page of what is known of a run."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options, output


@click.command("report")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
def command(run_dir: Path) -> None:
    """Write report.html and figures/*.png into RUN_DIR, from what profile, plan, eval and sweep wrote there."""
    from luq_gguf.reporting import build

    with output.reporter():
        written = build.report(run_dir)
    for path in written:
        click.echo(str(path))
