"""luq-gguf cache: what lies in the cache folder, and removing it."""

from __future__ import annotations

import time

import click

from luq_gguf.cli import options, output


@click.command("cache")
@click.option(
    "--clean", is_flag=True, help="Remove what this version does not use: old builds, and what killed ones left."
)
@click.option("--all", "everything", is_flag=True, help="Remove everything, builds of llama.cpp too.")
@options.as_json
def command(*, clean: bool, everything: bool, as_json: bool) -> None:
    """Show what luq-gguf keeps in its cache folder. What another process uses is never removed."""
    from rich.table import Table

    from luq_gguf.core.units import format_size
    from luq_gguf.workflows import caches

    listed = caches.entries()
    removed = caches.remove(listed, everything=everything) if clean or everything else []
    if as_json:
        rows = [entry.to_json() | {"removed": entry in removed} for entry in listed]
        output.print_json({"folder": str(caches.folder()), "n_bytes": sum(e.n_bytes for e in listed), "entries": rows})
        return
    if not listed:
        click.echo(f"{caches.folder()} is empty.")
        return
    table = Table(title=f"{caches.folder()}, {format_size(sum(entry.n_bytes for entry in listed))}")
    for name in ("what", "name", "items", "size", "last used", "state"):
        table.add_column(name, justify="right" if name in ("items", "size") else "left", overflow="fold")
    for entry in listed:
        state = "in use" if entry.in_use else "removed" if entry in removed else "" if entry.current else "not used"
        inside = entry.path.is_relative_to(caches.folder())
        name = str(entry.path.relative_to(caches.folder()) if inside else entry.path)
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        table.add_row(entry.kind, name, str(entry.n_items or ""), format_size(entry.n_bytes), used, state)
    output.print_table(table)
    if removed:
        click.echo(f"{format_size(sum(entry.n_bytes for entry in removed))} were freed.")
    elif clean or everything:
        click.echo("Nothing was removed.")
    elif unused := [entry for entry in listed if not entry.current and not entry.in_use]:
        n_bytes = sum(entry.n_bytes for entry in unused)
        click.echo(f"`luq-gguf cache --clean` frees {format_size(n_bytes)}: {len(unused)} entries that are not used.")
