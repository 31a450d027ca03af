"""Maps of tensor types as text: tensor-types.txt, which llama-quantize reads with --tensor-type-file.

llama-quantize lower-cases each pattern and searches it unanchored, first match wins (tools/quantize/quantize.cpp,
src/llama-quant.cpp), so every tensor gets a pattern of its own, anchored and escaped. Files are separated by white
space and have no comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from luq_gguf.core.errors import InputError

_LAYER = re.compile(r"^blk\.(\d+)\.")
_NAME = re.compile(r"^[a-z0-9_.]+$")


def layer_of(tensor: str) -> int | None:
    """Return the decoder layer of a GGUF tensor name, None for embeddings, head and norms outside the layers."""
    match = _LAYER.match(tensor)
    return int(match[1]) if match else None


def to_text(types: Mapping[str, str]) -> str:
    """Return one ``pattern=type`` per line, in the map's order. Raises InputError for names that patterns cannot
    carry."""
    for name in types:
        if not _NAME.match(name):
            raise InputError(
                f"The tensor name {name!r} cannot be given to llama-quantize.",
                "Only lower-case letters, digits, '.' and '_' survive its option parser.",
            )
    return "".join(f"^{name.replace('.', chr(92) + '.')}$={kind.lower()}\n" for name, kind in types.items())


def from_text(text: str) -> dict[str, str]:
    """Return the map that `to_text` wrote. Raises InputError where a line is not in its format."""
    types = {}
    for entry in text.split():
        match = re.match(r"^\^([a-z0-9_.\\]+)\$=([a-z0-9_]+)$", entry)
        if not match:
            raise InputError(
                f"tensor-types.txt: {entry!r} is not a line that luq-gguf writes.", "Run luq-gguf plan again."
            )
        types[match[1].replace("\\.", ".")] = match[2].upper()
    return types


def differences(planned: Mapping[str, str], written: Mapping[str, str]) -> list[str]:
    """Return one sentence for each tensor whose type is not as planned, or that is missing or not in the plan."""
    sentences = [
        f"{n}: planned {t}, found {written.get(n, 'no such tensor')}" for n, t in planned.items() if written.get(n) != t
    ]
    return sentences + [f"{n}: in the file ({t}), not in the plan" for n, t in written.items() if n not in planned]
