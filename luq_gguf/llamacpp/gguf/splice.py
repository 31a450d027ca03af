"""Splicing: any choice of low layers as a file, spliced from one with all layers low and one with none; and a
file of several that hold a part of its tensors each.

llama-quantize computes a tensor from its weights and its importance alone, so a spliced file has the bytes it would
have written itself; what it writes around them (metadata, order, padding) is copied. Hours of quantizing become
seconds of copying.
"""

from __future__ import annotations

import os
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
        file.write(_head(files[0], header, pieces, changes or {}))
        _append(pieces, header.alignment, file)


class Point:
    """A file that is spliced from the tensors of others again and again, to be measured each time.

    Only what lies behind the first tensor that is another one than before is written. What has changed lies at the
    end, in the order in which it did: a search changes the same few matrices in turns, and llama.cpp finds tensors by
    their names. What it holds is known to this object alone, and not while it is written: a file that an earlier
    process left is written anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pieces: tuple[_Piece, ...] = ()
        self._head_bytes = 0

    def become(self, files: Sequence[Path], types: Mapping[str, str]) -> int:
        """Make it a file with each tensor in the given type, as `splice` does, and return how many bytes were written.
        Raises VerificationError as that does."""
        header = validate.check(files[0])
        wanted = _chosen(files, types, None)
        known = set(wanted)
        before = [piece for piece in self._pieces if piece in known and piece.contents is not None]
        stays = set(before)
        pieces = [*before, *(piece for piece in wanted if piece not in stays)]
        head = _head(files[0], header, pieces, {})
        old = self._pieces if len(head) == self._head_bytes else ()
        n_kept = next((n for n, piece in enumerate(old) if n == len(before) or before[n] != piece), len(old))
        end = len(head) + sum(padded(piece.n_bytes, header.alignment) for piece in pieces[:n_kept])
        self._pieces = ()
        with self.path.open("r+b" if n_kept else "wb") as file:
            file.truncate(end)
            file.write(head)
            _append(pieces[n_kept:], header.alignment, file)
            n_bytes = len(head) + file.seek(0, os.SEEK_END) - end
        self._pieces, self._head_bytes = tuple(pieces), len(head)
        return n_bytes

    def remove(self) -> None:
        """Remove the file; the next one is written whole."""
        self._pieces = ()
        self.path.unlink(missing_ok=True)


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


def _head(path: Path, header: GGUFHeader, pieces: Sequence[_Piece], changes: Mapping[str, str]) -> bytes:
    """Magic, counts, metadata and the tensors' descriptions: all that stands before the data of these pieces. Entries
    that change stay in their places."""
    with path.open("rb") as file:
        raw = file.read(header.infos_at)
    changed = {header.entries[key]: (key, text) for key, text in changes.items() if key in header.entries}
    for (start, end), (key, text) in sorted(changed.items(), reverse=True):
        raw = raw[:start] + metadata.entry(key, text) + raw[end:]
    head, at = raw[:8] + struct.pack("<Q", len(pieces)) + raw[16:], 0
    for piece in pieces:
        head += piece.info(at)
        at += padded(piece.n_bytes, header.alignment)
    return head.ljust(padded(len(head), header.alignment), b"\0")


def _append(pieces: Iterable[_Piece], alignment: int, file: BinaryIO) -> None:
    """Append the pieces' data to a file, each with its padding."""
    for piece in pieces:
        with piece.file.open("rb") as given:
            file_ranges.append(given, piece.offset, piece.n_bytes, file)
        file.write(bytes(padded(piece.n_bytes, alignment) - piece.n_bytes))
