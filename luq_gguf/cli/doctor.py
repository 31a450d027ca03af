"""luq-gguf doctor: what was found, where, which version, and what to do about what is missing."""

from __future__ import annotations

import click

from luq_gguf.cli import options, output


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> int:
    """Check Python packages, llama.cpp's tools, libraries and converter, CPU and memory."""
    from rich.table import Table

    from luq_gguf import doctor

    checks = doctor.examine()
    ok = all(check.ok for check in checks)
    if as_json:
        output.print_json({"ok": ok, "checks": [vars(check) for check in checks]})
        return 0 if ok else 1
    table = Table(title="luq-gguf doctor")
    for name in ("", "what", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for check in checks:
        table.add_row("[green]ok[/]" if check.ok else "[red]missing[/]", check.name, check.found, check.hint)
    output.print_table(table)
    return 0 if ok else 1
