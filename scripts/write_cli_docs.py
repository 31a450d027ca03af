"""Write docs/cli.md: every command with the help that it prints.

.venv/bin/python scripts/write_cli_docs.py            # write docs/cli.md
.venv/bin/python scripts/write_cli_docs.py --check    # exit with 1 where it is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from luq_gguf.cli import COMMANDS, cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
_WIDTHS: dict[str, Any] = {"terminal_width": 100, "max_content_width": 100}  # of help texts, in characters
HEAD = """\
# Command line

<!-- Written by scripts/write_cli_docs.py. -->

Every command prints this help with `--help`. `--json` prints JSON and nothing else to stdout; progress and remarks go
to stderr. The exit code is 0 for success, 1 for failure, 2 for wrong usage and 130 after Ctrl-C. Options and JSON keys
are only added, never renamed or removed ([CONTRIBUTING.md](../CONTRIBUTING.md#versions)).

Your shell completes commands and options after `eval "$(_LUQ_GGUF_COMPLETE=bash_source luq-gguf)"` (`zsh_source` for
zsh; for fish, `_LUQ_GGUF_COMPLETE=fish_source luq-gguf | source`).
"""


def page() -> str:
    """Return the page's text."""
    rows = [f"| [`{name}`](#luq-gguf-{name}) | {text} |" for name, text in COMMANDS.items()]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"
    with cli.make_context("luq-gguf", [], resilient_parsing=True, **_WIDTHS) as parent:
        sections = [_section(parent)]
        for name in COMMANDS:
            command = cli.get_command(parent, name)
            assert command
            sections.append(_section(command.make_context(name, [], parent=parent, resilient_parsing=True, **_WIDTHS)))
    return "\n".join([HEAD, table, *sections])


def _section(context: click.Context) -> str:
    return f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.is_file() and PAGE.read_text() == text:
        return 0
    print("docs/cli.md is not what --help prints. Run scripts/write_cli_docs.py.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
