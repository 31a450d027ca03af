"""What the built library says of itself on this CPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class State:
    """`path` is what this CPU uses, None where that is nothing; `bits_per_weight` is that of a repacked tensor."""

    library: Path
    path: str | None
    bits_per_weight: float | None


def of(library: Path) -> State:
    """Ask the library for its state, without registering anything."""
    loaded = ctypes.CDLL(str(library))
    loaded.luq_kernels_path.restype, loaded.luq_kernels_bits.restype = ctypes.c_char_p, ctypes.c_double
    path = loaded.luq_kernels_path()
    return State(library, path.decode() if path else None, float(loaded.luq_kernels_bits()) if path else None)
