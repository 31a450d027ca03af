"""luq-gguf report: a page of what is known of a run."""

from __future__ import annotations

from pathlib import Path

import click

from luq_gguf.cli import options


@click.command("report")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
def command(run_dir: Path) -> None:
    """Write report.html and figures/*.png into RUN_DIR, from what profile, plan, eval and sweep wrote there."""
    from luq_gguf.reporting import build

    for path in build.report(run_dir):
        click.echo(str(path))
