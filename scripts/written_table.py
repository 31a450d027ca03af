"""A table in a page of docs/ that a script writes between two comments, some rows at a time."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from luq_gguf.llamacpp import tools

DOCS = Path(__file__).resolve().parent.parent / "docs"
SUPPORT = DOCS.parent / "tests" / "support"


@dataclass(frozen=True)
class Row:
    """A line of the table, and whether what it is about did what is expected of it."""

    cells: tuple[str, ...]
    is_as_expected: bool = True

    def __str__(self) -> str:
        return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in self.cells) + " |"


@dataclass(frozen=True)
class WrittenTable:
    """The table with these columns that `script` writes into `page`. Rows about the same thing have its name in their
    first cell."""

    page: Path
    script: str
    columns: tuple[str, ...]

    def write(self, rows: Mapping[str, Sequence[Row]], order: Iterable[Row]) -> None:
        """Put rows into the page by the names that they are about. Of those in `order` without any the old rows stay,
        as long as they are of the same versions, or else the row that is given there."""
        start, end = (
            f"<!-- Written by scripts/{self.script}. -->\n",
            f"<!-- End of what scripts/{self.script} writes. -->\n",
        )
        before, _, rest = self.page.read_text().partition(start)
        table, _, after = rest.partition(end)
        versions = f"transformers {version('transformers')}, llama.cpp of llama-cpp-python {tools.pin()['version']}.\n"
        kept: dict[str, list[str]] = {}
        for line, name in re.findall(r"^(\| ([^|]+) \|.*)$", table if versions in table else "", re.M):
            kept.setdefault(name, []).append(line)
        lines = [str(Row(self.columns)), "|" + "---|" * len(self.columns)]
        for default in order:
            name = default.cells[0]
            lines += map(str, rows.get(name) or kept.get(name) or [default])
        self.page.write_text(f"{before}{start}\n{versions}\n" + "\n".join(lines) + f"\n\n{end}{after}")

    def arguments(self, known: Iterable[str]) -> argparse.Namespace:
        """Read the command line: `names`, all of them if none is given, and `dry_run`."""
        parser = argparse.ArgumentParser()
        parser.add_argument("names", nargs="*", help="those to run  [default: all]")
        parser.add_argument(
            "--dry-run", action="store_true", help=f"print the rows; docs/{self.page.name} stays as it is"
        )
        arguments = parser.parse_args()
        if unknown := set(arguments.names) - set(known):
            parser.error(f"no such family: {', '.join(sorted(unknown))}")
        arguments.names = set(arguments.names or known)
        return arguments


def status(rows: Mapping[str, Sequence[Row]], expected_in: str) -> int:
    """Name what did something else than expected, and return the exit code."""
    wrong = [name for name, listed in rows.items() if not all(row.is_as_expected for row in listed)]
    if wrong:
        print(f"not as {expected_in} says: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0
