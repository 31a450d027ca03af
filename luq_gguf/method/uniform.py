"""llama-quantize's own files of one file type, which plans and sweeps are compared with: their types and names."""

from __future__ import annotations

FTYPES = (
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "IQ4_XS",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
)  # fmt: skip
"""Those that a plan has to beat, by size."""

SWEPT = ("IQ1_M", "IQ2_XXS", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "Q4_K_M")
"""Those that a sweep measures unasked: each file takes as long as all its questions."""

_PREFIX = "uniform "


def name_of(ftype: str) -> str:
    """Return what the file of a type is called in sweep.json and plan.json, where orders of layers have names too."""
    return _PREFIX + ftype


def ftype_of(name: str) -> str:
    """Return the type of the file with such a name."""
    return name.removeprefix(_PREFIX)


def is_uniform(name: str) -> bool:
    """Return whether this is the name of a quantized uniform file, not of an order."""
    return name.startswith(_PREFIX) and name != REFERENCE


REFERENCE = name_of("F16")
