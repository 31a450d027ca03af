"""Checks that a 16-bit GGUF file contains what the plan was made for."""

from __future__ import annotations

from luq_gguf.core.errors import CheckpointError, ConversionError, RunFolderError
from luq_gguf.core.types import COLUMNS
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.gguf.reader import GGUFInfo
from luq_gguf.run.folder import RunFolder


def check_same_tensors(written: GGUFInfo, expected: GGUFInfo, *, allow_subset: bool = False) -> None:
    """Check that the converter wrote exactly the tensors of the header-only GGUF that the plan was made on, or with
    `allow_subset` some of them.

    Raises CheckpointError naming one that differs.
    """
    theirs = {t.name: (t.type, t.shape) for t in written.tensors}
    ours = {t.name: (t.type, t.shape) for t in expected.tensors if t.name in theirs or not allow_subset}
    if ours != theirs:
        name = next(n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n))
        raise CheckpointError(
            f"llama.cpp's converter wrote {name} as {theirs.get(name)}, but the plan expects {ours.get(name)}.",
            "The conversion changes this architecture in a way that luq-gguf does not support yet; please report it.",
        )


def check_same_columns(run: RunFolder, f16: GGUFInfo) -> None:
    """Check that the converter kept the order of columns that transformers has, because importance is per column.

    Only the matrices in the 16-bit file are checked, and none in a run that has not been profiled. Raises
    RunFolderError where the profile is not readable, ConversionError naming a matrix.
    """
    if not run.outputs("profile"):
        return
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(run.file("profile.safetensors"))
    except (OSError, SafetensorError):
        raise RunFolderError(
            f"{run.file('profile.safetensors')} is missing or damaged.", "Run luq-gguf profile again."
        ) from None
    named = {name.removeprefix(COLUMNS): array for name, array in arrays.items() if name.startswith(COLUMNS)}
    for name, theirs in reader.column_energies(f16, named).items():
        ours = named[name]
        shares = ours / max(ours.sum(), 1e-300), theirs / max(theirs.sum(), 1e-300)
        # 16-bit rounding moves a share by 1e-4 of itself, another order by some percent.
        if abs(shares[0] - shares[1]).max() > 5e-3 * shares[0].mean():
            raise ConversionError(
                f"llama.cpp's converter puts the columns of {name} in a different order, so "
                "their importance would apply to other columns.",
                "luq-gguf does not support this order yet; please report it with the model's name.",
            )
