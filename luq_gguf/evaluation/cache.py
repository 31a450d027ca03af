"""Keeps measurements on disk part by part, so that a killed one only repeats the part it was in.

A case is named q<number> (a prompt) or t<number> (a chunk of text); a part is PART cases in one safetensors file that
is named after its first case. Its tensors are named <case>.<what>.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from luq_gguf.core import atomic
from luq_gguf.core.types import EvalData

PART = 16  # prompts or chunks of text

Arrays = dict[str, np.ndarray]


def names(data: EvalData, size: int = PART) -> Iterator[list[str]]:
    """Yield the names of the cases of every part of that size."""
    for kind, count in (("q", len(data.samples)), ("t", len(data.chunks))):
        cases = [f"{kind}{number}" for number in range(count)]
        yield from (cases[at : at + size] for at in range(0, count, size))


def path(folder: Path, cases: Sequence[str]) -> Path:
    return folder / f"{cases[0]}.safetensors"


def save(folder: Path, cases: Sequence[str], arrays: Arrays, answers: Mapping[str, str]) -> None:
    """Write a whole part; `answers` has those of its prompts by case."""
    from safetensors.numpy import save_file

    with atomic.whole(path(folder, cases)) as part:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # it writes memory as it is
        save_file(contiguous, part, metadata={"answers": json.dumps(dict(answers))})


def read(
    folder: Path, data: EvalData, parts: Iterable[Sequence[str]] | None = None
) -> Iterator[tuple[str, Arrays, str | None]]:
    """Yield the cases of all parts, or of the given ones, as name, arrays and answer (None for a chunk of text)."""
    for cases in parts or names(data):
        arrays, answers = _read_part(path(folder, cases))
        for name in cases:
            yield name, _of(name, arrays), answers.get(name)


class Reference:
    """The measurements of a reference in its folder, with one part of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._first, self._arrays = folder, "", dict[str, np.ndarray]()

    def arrays(self, name: str) -> Arrays:
        first = f"{name[0]}{int(name[1:]) // PART * PART}"
        if first != self._first:
            self._arrays, _ = _read_part(path(self._folder, [first]))
            self._first = first
        return _of(name, self._arrays)


def _read_part(file: Path) -> tuple[Arrays, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as part:
        return {key: part.get_tensor(key) for key in part.keys()}, json.loads(part.metadata()["answers"])  # noqa: SIM118


def _of(name: str, arrays: Arrays) -> Arrays:
    return {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}
