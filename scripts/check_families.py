"""Convert a small random checkpoint of every model family (tests/support/families), compare its 16-bit file with
transformers, and write the table in docs/families.md.

scripts/check-families                # all families
scripts/check-families qwen3-vl phi   # these alone: other rows stay as they are
scripts/check-families --dry-run phi  # only print

Families whose packages are missing keep the row that they have: run them in an environment that has these. The exit
code is 1 where a family does not do what its file says.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

from written_table import DOCS, SUPPORT, Row, WrittenTable, status

sys.path.insert(0, str(SUPPORT))

from families import FAMILIES, Family
from family_figures import convert_16_bit, environment, measure, missing_packages

from luq_gguf.core.errors import InputError, LuqError
from luq_gguf.llamacpp import converter, tools
from luq_gguf.llamacpp.runtime.client import LlamaClient

TABLE = WrittenTable(
    DOCS / "families.md",
    "check-families",
    ("family", "class in transformers", "result", "mean KLD", "same top token", "remarks"),
)


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


def _not_run(family: Family) -> Row:
    missing = missing_packages(family)
    why = f"not run here: needs {', '.join(missing)}" if missing else "not run"
    return Row((family.name, "", why, "", "", family.remarks))


def main() -> int:
    arguments = TABLE.arguments([family.name for family in FAMILIES])
    rows: dict[str, list[Row]] = {}
    for family in FAMILIES:
        if family.name not in arguments.names or missing_packages(family):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[family.name] = [row_of(family, Path(folder))]
        print(*rows[family.name], flush=True)
    if not arguments.dry_run:
        TABLE.write(rows, map(_not_run, FAMILIES))
    return status(rows, "tests/support/families")


if __name__ == "__main__":
    sys.exit(main())
