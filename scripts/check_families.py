"""Convert a small random checkpoint of every model family (tests/support/families), compare its 16-bit file with
transformers, and write the table in docs/families.md.

scripts/check-families                # all families
scripts/check-families qwen3-vl phi   # these alone: other rows stay as they are
scripts/check-families --dry-run phi  # only print

Families whose packages are missing keep the row that they have: run them in an environment that has these. The exit
code is 1 where a family does not do what its file says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from families import FAMILIES, Family
from family_figures import convert_16_bit, environment, measure, missing_packages

from luq_gguf.core.errors import InputError, LuqError
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.runtime.client import LlamaClient

PAGE = Path(__file__).resolve().parent.parent / "docs" / "families.md"
_START, _END = "<!-- Written by scripts/check-families. -->\n", "<!-- End of what scripts/check-families writes. -->\n"
_HEAD = "| family | class in transformers | result | mean KLD | same top token | remarks |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """A line of the table, and whether the family did what its file says."""

    cells: tuple[str, ...]
    is_as_expected: bool

    def __str__(self) -> str:
        return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in self.cells) + " |"


def row_of(family: Family, folder: Path) -> Row:
    """Build a family's checkpoint and try it."""
    name = ""
    try:
        model = family.build(folder / family.name)
        name = json.loads((model / "config.json").read_text())["architectures"][0]
        with environment(family, folder):
            try:
                f16, mmproj = convert_16_bit(model, folder / "run")
            except InputError as refusal:
                sentence = f"refused: {refusal.message} {_bare_converter(model, folder, has_vision=bool(family.image))}"
                expected = bool(family.refused) and family.refused in refusal.message
                return Row((family.name, name, sentence, "", "", family.remarks), expected)
        figures = measure(family, model, f16, mmproj, folder)
        shown = measure(family, model, f16, mmproj, folder, as_is=True) if family.as_llama_cpp else figures
    except Exception as error:  # the other families are tried all the same
        if not isinstance(error, LuqError):
            traceback.print_exc()
        return Row((family.name, name, f"fails: {type(error).__name__}: {error}", "", "", family.remarks), False)
    print(f"{family.name}: {figures}, between pictures {figures.between_pictures}, {figures.differences}")
    sees = figures.between_pictures is None or figures.between_pictures > 1e-4
    agrees = figures.kld <= family.largest_kld
    result = "computes something else"
    if not sees:
        result = "does not see the picture"
    elif agrees:
        result = "works" if shown.kld <= family.largest_kld else "differs, see below"
    remarks = [family.remarks] if family.remarks else []
    if shown is not figures:
        remarks.append(f"{figures.kld:.1e} where transformers computes that, too")
    cells = (family.name, name, result, f"{shown.kld:.1e}", f"{shown.same_top:.1%}", "; ".join(remarks))
    same_tokens = bool(figures.differences) == family.other_tokens
    return Row(cells, agrees and sees and same_tokens and not family.refused)


def _bare_converter(model: Path, folder: Path, *, has_vision: bool) -> str:
    """What llama.cpp's converter makes of a checkpoint that the preflight refuses."""
    files = [folder / "bare.gguf", folder / "bare-mmproj.gguf"][: 1 + has_vision]
    try:
        for number, file in enumerate(files):
            converter.to_16_bit(tools.find(), model, file, model.name, mmproj=number == 1)
    except LuqError:
        return "The bare converter fails, too."
    try:
        with LlamaClient(*files, n_ctx=512, threads=1) as client:
            client.score("What is it?")
    except LuqError:
        return "The bare converter writes files that do not load."
    return "The bare converter writes files that load."


def write(rows: dict[str, str]) -> None:
    """Put rows into the page, in the order of FAMILIES; of families that were not run the old ones stay, as long as
    they are of the same versions."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_START)
    table, _, after = rest.partition(_END)
    versions = f"transformers {version('transformers')}, llama.cpp of llama-cpp-python {tools.pin()['version']}.\n"
    kept = dict(re.findall(r"^(?=\| ([^|]+) \|)(.*)$", table, re.M)) if versions in table else {}
    rows = {family.name: rows.get(family.name) or kept.get(family.name) or _not_run(family) for family in FAMILIES}
    PAGE.write_text(f"{before}{_START}\n{versions}\n{_HEAD}" + "\n".join(rows.values()) + f"\n\n{_END}{after}")


def _not_run(family: Family) -> str:
    missing = missing_packages(family)
    why = f"not run here: needs {', '.join(missing)}" if missing else "not run"
    return str(Row((family.name, "", why, "", "", family.remarks), is_as_expected=True))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="families to run  [default: all]")
    parser.add_argument("--dry-run", action="store_true", help="print the rows, and leave docs/families.md as it is")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {family.name for family in FAMILIES}:
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    rows: dict[str, Row] = {}
    for family in FAMILIES:
        if (arguments.names and family.name not in arguments.names) or missing_packages(family):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[family.name] = row_of(family, Path(folder))
        print(rows[family.name], flush=True)
    if not arguments.dry_run:
        write({name: str(row) for name, row in rows.items()})
    wrong = [name for name, row in rows.items() if not row.is_as_expected]
    if wrong:
        print(f"not as tests/support/families says: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
