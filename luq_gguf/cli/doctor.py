"""luq-gguf doctor: what was found, where, which version, and what to do about what is missing."""

from __future__ import annotations

import click

from luq_gguf.cli import options, output


@click.command("doctor")
@options.as_json
def command(*, as_json: bool) -> int:
    """Check Python packages, llama.cpp's tools, libraries and converter, CPU and memory."""
    from luq_gguf.diagnostics import doctor

    return output.print_checks("luq-gguf doctor", doctor.examine(), "missing", as_json=as_json)
