"""Whether a 16-bit GGUF holds what the plan was made for."""

from __future__ import annotations

from luq_gguf.core.errors import CheckpointError, ConversionError, RunFolderError
from luq_gguf.core.types import COLUMNS
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.llamacpp.gguf.reader import GGUFInfo
from luq_gguf.run.folder import RunFolder


def check_same_tensors(written: GGUFInfo, expected: GGUFInfo, *, allow_subset: bool = False) -> None:
    """The plan was made on the header-only GGUF: the converter must have written exactly those tensors, or
    `allow_subset` of them.

    Raises CheckpointError naming one that differs.
    """
    theirs = {t.name: (t.type, t.shape) for t in written.tensors}
    ours = {t.name: (t.type, t.shape) for t in expected.tensors if t.name in theirs or not allow_subset}
    if ours != theirs:
        name = next(n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n))
        raise CheckpointError(
            f"llama.cpp's converter wrote {name} as {theirs.get(name)}, planned was {ours.get(name)}.",
            "This architecture is changed by its conversion in a way luq-gguf does not know yet; please report it.",
        )


def check_same_columns(run: RunFolder, f16: GGUFInfo) -> None:
    """Importance is per column as transformers has them: the converter must not have put them in another order.

    Looked at are the matrices that the 16-bit file holds. Raises RunFolderError without a profile, ConversionError
    naming a matrix.
    """
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
                f"llama.cpp's converter puts the columns of {name} in an order of its own, so "
                "their importance would weigh on others.",
                "luq-gguf does not know this order yet; please report it with the model's name.",
            )
