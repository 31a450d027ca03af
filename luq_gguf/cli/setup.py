"""luq-gguf setup: the pinned llama.cpp, found or built."""

from __future__ import annotations

import click

from luq_gguf.cli import options, output


@click.command("setup")
@click.option(
    "--portable", is_flag=True, help="Build for every CPU with AVX2 (x86-64-v3), or armv8.2 with dot products."
)
@options.as_json
def command(*, portable: bool, as_json: bool) -> None:
    """Find or build the pinned llama.cpp for this CPU: everything else needs it.

    A build takes minutes, a C++ compiler and a package index, and says so before it starts. It is kept in the cache
    folder for all environments and versions that pin the same llama.cpp, and is used only after a self-test has shown
    that it computes correctly.
    """
    from luq_gguf.llamacpp import tools

    folder, built = tools.set_up(portable=portable)
    if as_json:
        output.print_json({"folder": str(folder), "version": tools.pin()["version"], "built": built})
        return
    click.echo(f"llama.cpp  {folder}{' (built now)' if built else ''}")
