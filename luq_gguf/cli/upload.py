"""luq-gguf upload: a finished run to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from luq_gguf.cli import options, output
from luq_gguf.core.units import format_size
from luq_gguf.reporting.progress import progress

if TYPE_CHECKING:
    from luq_gguf.publishing.upload import Upload


@click.command("upload")
@click.argument("run_dir", type=options.UserPath(path_type=Path))
@click.option("--repo", required=True, metavar="USER/NAME", help="The repository on the Hub.")
@options.hub
@click.option("--dry-run", is_flag=True, help="Check everything and list what would be sent.")
@options.as_json
def command(run_dir: Path, repo: str, *, dry_run: bool, as_json: bool, **rest: Any) -> None:
    """Publish the files that convert made in RUN_DIR, with a model card: all in one commit, or none.

    Files that the repository already has are not sent again, and its other files stay. The card is RUN_DIR/README.md.
    """
    from luq_gguf import api

    target, base_model = options.make_target(repo, rest)
    with progress() as reporter:
        done = api.upload(run_dir, target, base_model=base_model, dry_run=dry_run, reporter=reporter)
    if as_json:
        output.print_json(done.to_json())
        return
    output.print_table(table(done))
    for line in lines(done):
        click.echo(line)


def table(done: Upload) -> Table:
    """Return a table of our files in the repository, and whether each is new there."""
    sent, word = {file.name for file in done.sent}, "to be sent" if done.dry_run else "sent"
    table = Table(title=f"{done.target.repo} on the Hub")
    for name in ("file", "size", "sha256", ""):
        table.add_column(name, justify="right" if name == "size" else "left")
    for file in done.files:
        table.add_row(
            file.name, format_size(file.n_bytes), file.sha256[:12], word if file.name in sent else "already there"
        )
    return table


def lines(done: Upload) -> list[str]:
    n_bytes = sum(file.n_bytes for file in done.sent)
    if done.dry_run:
        if done.unchecked:
            return [
                f"dry run: {len(done.files)} files, {format_size(n_bytes)} would be sent",
                f"not checked: whether {done.target.repo} exists, what it has already, and whether you may write to it "
                f"({done.unchecked})",
            ]
        creation = "" if done.exists else f"; {done.target.repo} does not exist and would be created as "
        creation += "" if done.exists else ("private" if done.target.private else "public")
        return [f"dry run: {len(done.sent)} files, {format_size(n_bytes)} would be sent{creation}"]
    if not done.sent:
        return [f"nothing to send: all {len(done.files)} files are already there  ({done.pull_request or done.url})"]
    sentence = (
        f"{len(done.sent)} of {len(done.files)} files sent in one commit, {format_size(n_bytes)}, each verified there"
    )
    return [sentence, f"{'pull request' if done.pull_request else 'repository'}  {done.pull_request or done.url}"]
