"""Whether a GGUF file's header can be believed, found out before a reader that believes it sees the file.

The `gguf` package's reader makes an array of every value that a header claims, follows nested arrays by recursion,
wraps products of dimensions at 64 bits, and reads past the end of a file as if nothing were there. Here every count is
compared with what is left of the file before anything is made of it. The rules are those of ggml's own reader
(ggml/src/gguf.cpp), with limits on what a header may hold.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import gguf

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.hashing import settled
from luq_gguf.core.units import padded

MAX_STRING = 16 * 1024**2  # bytes; the longest in the wild are chat templates of some ten kilobytes
MAX_ENTRIES = 65_536  # metadata
MAX_TENSORS = 262_144
MAX_ELEMENTS = 4 * 1024**2  # of all arrays together; vocabularies of 262144 tokens with their merges take a quarter
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_NAME = 64  # GGML_MAX_NAME, of tensors
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # value type: bytes
_UINT32, _STRING, _ARRAY = 4, 8, 9
_WHOLE = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}  # value type: struct's form
_TOLD = ("general.architecture", "general.type")
_HINT = "Download or convert it again."
_LENGTH = struct.Struct("<Q")


class _DamageError(Exception):
    """The sentence's end: what is wrong."""


class LongerHeaderError(Exception):
    """The bytes that were given end within the header, but the file does not."""


@dataclass(frozen=True)
class GGUFHeader:
    """Where a header ends (before padding), its alignment, and the name, type number and shape (columns first) of every
    tensor. Of the metadata it has the texts that luq-gguf wrote (`ours`), those that tell what a file is, and whole
    numbers; of every entry where it lies, from its key to the end of its value; and where the tensors' descriptions
    begin (`infos_at`)."""

    end: int
    alignment: int
    tensors: tuple[tuple[str, int, tuple[int, ...]], ...]
    ours: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    infos_at: int = 0


@dataclass
class _Cursor:
    """A place in the first bytes of a file of so many."""

    data: mmap.mmap | bytes
    n_bytes: int
    at: int = 0
    elements: int = 0

    def left(self) -> int:
        return self.n_bytes - self.at

    def skip(self, n: int, what: str) -> int:
        """Advance by n bytes, and return where they began."""
        if n > self.left():
            raise _DamageError(f"it ends within {what}")
        if self.at + n > len(self.data):
            raise LongerHeaderError
        self.at += n
        return self.at - n

    def number(self, form: str, what: str) -> int:
        at = self.skip(struct.calcsize(form), what)
        return int(struct.unpack_from(form, self.data, at)[0])

    def string(self, what: str, limit: int = MAX_STRING) -> bytes:
        length = self.number("<Q", what)
        if length > limit:
            raise _DamageError(f"{what} claims to have {length} bytes")
        at = self.skip(length, what)
        return bytes(self.data[at : at + length])

    def name(self, what: str, limit: int) -> str:
        raw = self.string(what, limit)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise _DamageError(f"{what} is not UTF-8") from None
        if not name.isprintable():
            raise _DamageError(f"{what} contains control characters: {name!r}")
        return name


def check(path: Path) -> GGUFHeader:
    """Return what a header says, without its metadata. Raises GGUFFileError, with what is wrong, where it contradicts
    itself or the file.

    The file is read once for it, as long as it stays as it is: the bank that a search splices files from is asked
    hundreds of times, and a vocabulary is most of a header.
    """
    if not path.is_file():
        raise GGUFFileError(f"{path} is not a file.", "Give the path of a .gguf file.")
    if path.stat().st_size == 0:
        raise GGUFFileError(f"{path} is empty.", _HINT)
    identity = settled(path)
    return _checked(path) if identity is None else _kept(path, identity)


@lru_cache(maxsize=64)
def _kept(path: Path, identity: tuple[str, ...]) -> GGUFHeader:
    """`identity` tells one content of the file from another."""
    return _checked(path)


def _checked(path: Path) -> GGUFHeader:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return check_bytes(data, str(path))


def entry(path: Path, key: str) -> bytes | None:
    """Return an entry of a file's metadata as it stands there, with its key; None where there is none. Raises
    GGUFFileError."""
    place = check(path).entries.get(key)
    if place is None:
        return None
    with path.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1] - place[0])


def check_bytes(data: mmap.mmap | bytes, name: str, n_bytes: int | None = None) -> GGUFHeader:
    """Return the same as `check`, for a file's bytes, or for the first ones of a file of `n_bytes`; raises
    LongerHeaderError where a header that may be right is longer than those."""
    if data[:4] != b"GGUF":
        raise GGUFFileError(f"{name} is not a GGUF file.", "It does not begin with GGUF's magic number.")
    try:
        return _check(_Cursor(data, len(data) if n_bytes is None else n_bytes, 4))
    except _DamageError as damage:
        raise GGUFFileError(f"{name} is damaged: {damage}.", _HINT) from None


def _check(cursor: _Cursor) -> GGUFHeader:
    version = cursor.number("<I", "its version")
    if version & 0xFFFF == 0:
        raise _DamageError("it has the opposite byte order")
    if version not in (2, 3):
        raise _DamageError(f"GGUF version {version} is not supported")
    n_tensors, n_entries = cursor.number("<Q", "its counts"), cursor.number("<Q", "its counts")
    # The least that each takes: a name of one byte, a type, a value; a name, its dimensions, a type, an offset.
    if n_entries > min(MAX_ENTRIES, cursor.left() // 14):
        raise _DamageError(f"it claims to have {n_entries} metadata entries")
    if n_tensors > min(MAX_TENSORS, cursor.left() // 24):
        raise _DamageError(f"it claims to have {n_tensors} tensors")
    alignment, texts, numbers, entries = _check_entries(cursor, n_entries)
    infos_at = cursor.at
    tensors = tuple(_check_tensors(cursor, n_tensors, alignment))
    ours = {key: text for key, text in texts.items() if key.startswith("luq.")}
    others = {key: text for key, text in texts.items() if key not in ours}
    return GGUFHeader(cursor.at, alignment, tensors, ours, others, numbers, entries, infos_at)


def _check_entries(
    cursor: _Cursor, count: int
) -> tuple[int, dict[str, str], dict[str, int], dict[str, tuple[int, int]]]:
    """Walk over the metadata; the alignment that it sets, the texts of luq-gguf's own keys and of `_TOLD`, whole
    numbers, and where each entry lies."""
    alignment, texts, numbers = 32, dict[str, str](), dict[str, int]()
    entries: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        start = cursor.at
        key = cursor.name("a key", 65_535)
        if not key or key in entries:
            raise _DamageError(f"the key {key!r} occurs twice" if key else "a key is empty")
        kind = cursor.number("<I", f"{key}'s type")
        at = cursor.at
        _check_value(cursor, kind, key)
        entries[key] = (start, cursor.at)
        if (key.startswith("luq.") or key in _TOLD) and kind == _STRING:
            texts[key] = bytes(cursor.data[at + 8 : cursor.at]).decode(errors="replace")
        elif form := _WHOLE.get(kind):
            numbers[key] = int(struct.unpack_from(form, cursor.data, at)[0])
        if key == "general.alignment":
            alignment = struct.unpack_from("<I", cursor.data, at)[0] if kind == _UINT32 else 0
            if alignment == 0 or alignment & (alignment - 1):
                raise _DamageError("its alignment is not a power of two")
    return alignment, texts, numbers, entries


def _check_value(cursor: _Cursor, kind: int, key: str) -> None:
    if kind == _STRING:
        cursor.string(f"the value of {key}")
    elif kind == _ARRAY:
        _check_array(cursor, key)
    elif kind in _SCALARS:
        cursor.skip(_SCALARS[kind], f"the value of {key}")
    else:
        raise _DamageError(f"{key} has a value of the unknown type {kind}")


def _check_array(cursor: _Cursor, key: str) -> None:
    kind, count = cursor.number("<I", f"the array {key}"), cursor.number("<Q", f"the array {key}")
    if kind == _ARRAY:
        raise _DamageError(f"{key} is an array of arrays")
    if kind != _STRING and kind not in _SCALARS:
        raise _DamageError(f"{key} is an array of the unknown type {kind}")
    cursor.elements += count
    if count * _SCALARS.get(kind, 8) > cursor.left() or cursor.elements > MAX_ELEMENTS:
        raise _DamageError(f"the array {key} claims to have {count} elements")
    if kind != _STRING:
        cursor.skip(count * _SCALARS[kind], f"the array {key}")
        return
    for _ in range(count - _skip_strings(cursor, count)):
        length = cursor.number("<Q", f"the array {key}")
        cursor.skip(length, f"the array {key}")
        if length > MAX_STRING:
            raise _DamageError(f"the array {key} has a string of {length} bytes")


def _skip_strings(cursor: _Cursor, count: int) -> int:
    """Advance behind the strings of an array up to the first that is too long or not whole, and return how many they
    are: a vocabulary has hundreds of thousands, for which calls would take most of the time."""
    at, data, last, length_at = cursor.at, cursor.data, min(cursor.n_bytes, len(cursor.data)) - 8, _LENGTH.unpack_from
    for number in range(count):
        cursor.at = at
        if at > last:
            return number
        length = length_at(data, at)[0]
        if length > MAX_STRING or at + length > last:
            return number
        at += 8 + length
    cursor.at = at
    return count


def _check_tensors(cursor: _Cursor, count: int, alignment: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Walk over the tensors' descriptions, whose data must lie one behind the other and within the file."""
    seen: set[str] = set()
    at = end = 0
    for _ in range(count):
        name = cursor.name("a tensor's name", MAX_NAME - 1)
        if name in seen:
            raise _DamageError(f"the tensor {name} occurs twice")
        seen.add(name)
        kind, shape, n_bytes = _tensor_type(cursor, name)
        offset = cursor.number("<Q", f"the tensor {name}")
        if offset != at:
            raise _DamageError(f"the data of {name} begins at {offset}, but the tensor before it ends at {at}")
        end = at + n_bytes
        at += padded(n_bytes, alignment)
        yield name, kind, shape
    start = padded(cursor.at, alignment)
    if count and start + end > cursor.n_bytes:
        raise _DamageError(f"its tensors need {start + end} bytes, but it has {cursor.n_bytes}")


def _tensor_type(cursor: _Cursor, name: str) -> tuple[int, tuple[int, ...], int]:
    """A tensor's type, its shape, and its bytes."""
    n_dimensions = cursor.number("<I", f"the tensor {name}")
    if n_dimensions > MAX_DIMENSIONS:
        raise _DamageError(f"the tensor {name} has {n_dimensions} dimensions")
    shape = tuple(cursor.number("<Q", f"the tensor {name}") for _ in range(n_dimensions))
    n_weights = 1
    for n in shape:
        n_weights *= n
    if n_weights == 0 or n_weights >= 2**63:
        raise _DamageError(f"the tensor {name} has the shape {list(shape)}")
    raw = cursor.number("<I", f"the tensor {name}")
    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(raw)]
    except (ValueError, KeyError):
        raise _DamageError(f"the tensor {name} has the unknown type {raw}") from None
    if (shape[0] if shape else 1) % block:
        raise _DamageError(f"the rows of {name} do not fill blocks of {block}")
    return raw, shape, n_weights // int(block) * int(size)
