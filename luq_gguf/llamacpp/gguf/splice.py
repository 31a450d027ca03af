"""Splicing: any choice of low layers as a file, spliced from one with all layers low and one with none; and a
file of several that hold a part of its tensors each.

llama-quantize computes a tensor from its weights and its importance alone, so a spliced file has the bytes it would
have written itself; what it writes around them (metadata, order, padding) is copied. Hours of quantizing become
seconds of copying.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import gguf

from luq_gguf.core import atomic, file_ranges
from luq_gguf.core.errors import VerificationError
from luq_gguf.core.hashing import settled
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import metadata, validate
from luq_gguf.llamacpp.gguf.reader import type_bytes
from luq_gguf.llamacpp.gguf.validate import GGUFHeader


@dataclass(frozen=True)
class _Piece:
    """A tensor of a file: its type, its shape (columns first), and where its data lie. `contents` stands for the
    file's, None where they may still change unnoticed."""

    name: str
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    file: Path
    contents: tuple[str, ...] | None
    offset: int
    n_bytes: int

    def info(self, at: int) -> bytes:
        """Its description (GGUF 3) where its data begin at `at`: name, dimensions, type, offset."""
        dimensions = struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape)
        return metadata.string(self.name) + dimensions + struct.pack("<IQ", self.kind, at)

    def write(self, file: BinaryIO, at: int, alignment: int) -> int:
        """Write the data into a file from its byte `at` on, with padding, and return where the next ones begin."""
        with self.file.open("rb") as given:
            file_ranges.copy(given, self.offset, self.n_bytes, file, at)
        end = at + padded(self.n_bytes, alignment)
        file.seek(at + self.n_bytes)
        file.write(bytes(end - at - self.n_bytes))
        return end


def splice(
    files: Sequence[Path],
    types: Mapping[str, str],
    out: Path,
    *,
    order: Iterable[str] | None = None,
    changes: Mapping[str, str] | None = None,
) -> None:
    """Write a file with each tensor in the given type, copied from the first of the files that has it in that type.

    Metadata are those of the first file, but for `changes` of texts. `order` is that of the tensors, if not all that
    are wanted lie in the first file. Raises VerificationError naming a tensor that none holds in its type.
    """
    header = validate.check(files[0])
    pieces = _chosen(files, types, order)
    with atomic.whole(out) as part, part.open("wb") as file:
        at = file.write(_head(files[0], header, pieces, changes))
        for piece in pieces:
            at = piece.write(file, at, header.alignment)


class Point:
    """A file that is spliced from the tensors of others again and again, to be measured each time.

    Only what has changed is written: llama.cpp finds tensors by their names, so one that is another than before goes
    where one of its size was, and what finds no such place goes to the end, with what has to move for that. What the
    file holds is known to this object alone, and not while it is written: a file that an earlier process left is
    written anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pieces: tuple[_Piece, ...] = ()
        self._head_bytes = 0

    def become(self, files: Sequence[Path], types: Mapping[str, str]) -> int:
        """Make it a file with each tensor in the given type, as `splice` does, and return how many bytes were written.
        Raises VerificationError as that does."""
        header = validate.check(files[0])
        pieces = _arranged(self._pieces, _chosen(files, types, None), header.alignment)
        head = _head(files[0], header, pieces)
        old = self._pieces if len(head) == self._head_bytes else ()
        at = n_bytes = len(head)
        self._pieces = ()
        with self.path.open("r+b" if old else "wb") as file:
            file.write(head)
            stays = True  # nothing before has moved
            for number, piece in enumerate(pieces):
                before = old[number] if number < len(old) else None
                end = at + padded(piece.n_bytes, header.alignment)
                if not stays or piece != before or piece.contents is None:
                    piece.write(file, at, header.alignment)
                    n_bytes += end - at
                stays = stays and before is not None and at + padded(before.n_bytes, header.alignment) == end
                at = end
            file.truncate(at)
        self._pieces, self._head_bytes = tuple(pieces), len(head)
        return n_bytes

    def remove(self) -> None:
        """Remove the file; the next one is written whole."""
        self._pieces = ()
        self.path.unlink(missing_ok=True)


def _arranged(old: Sequence[_Piece], wanted: Sequence[_Piece], alignment: int) -> list[_Piece]:
    """The wanted pieces in an order of which as much as possible lies where it lay in the old one."""
    known, fitting = set(old), dict[int, list[_Piece]]()
    for piece in wanted:
        if piece not in known:
            fitting.setdefault(padded(piece.n_bytes, alignment), []).append(piece)
    staying, placed = set(wanted), list[_Piece]()
    for piece in old:
        if piece in staying:
            placed.append(piece)
        elif others := fitting.get(padded(piece.n_bytes, alignment)):
            placed.append(others.pop(0))
        else:
            break
    done = set(placed)
    moved = [piece for piece in old if piece in staying and piece not in done]
    done.update(moved)
    return [*placed, *moved, *(piece for piece in wanted if piece not in done)]


def _chosen(files: Sequence[Path], types: Mapping[str, str], order: Iterable[str] | None) -> list[_Piece]:
    """Each tensor in its type from the first of the files that has it so, in the first one's order if none is given."""
    tables = [_pieces(file) for file in files]
    chosen = []
    for name in tables[0] if order is None else order:
        piece = next((t[name] for t in tables if name in t and t[name].kind.name == types[name]), None)
        if piece is None:
            raise VerificationError(
                f"The quantized variants do not contain {name} in {types[name]}.", "Run the same command again."
            )
        chosen.append(piece)
    return chosen


def _pieces(file: Path) -> dict[str, _Piece]:
    header, pieces = validate.check(file), dict[str, _Piece]()
    at, contents = padded(header.end, header.alignment), settled(file)
    for name, number, shape in header.tensors:
        kind = gguf.GGMLQuantizationType(number)
        n_bytes = type_bytes(kind.name, prod(shape))
        pieces[name] = _Piece(name, kind, shape, file, contents, at, n_bytes)
        at += padded(n_bytes, header.alignment)
    return pieces


def _head(path: Path, header: GGUFHeader, pieces: Sequence[_Piece], changes: Mapping[str, str] | None = None) -> bytes:
    """Magic, counts, metadata and the tensors' descriptions: all that stands before the data of these pieces. Entries
    that change stay in their places."""
    with path.open("rb") as file:
        raw = file.read(header.infos_at)
    changed = {header.entries[key]: (key, text) for key, text in (changes or {}).items() if key in header.entries}
    for (start, end), (key, text) in sorted(changed.items(), reverse=True):
        raw = raw[:start] + metadata.entry(key, text) + raw[end:]
    parts, at = [raw[:8], struct.pack("<Q", len(pieces)), raw[16:]], 0
    for piece in pieces:
        parts.append(piece.info(at))
        at += padded(piece.n_bytes, header.alignment)
    n_bytes = sum(map(len, parts))
    return b"".join([*parts, bytes(padded(n_bytes, header.alignment) - n_bytes)])
