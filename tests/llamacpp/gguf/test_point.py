"""A file that is spliced again and again is the one that would be spliced anew, but for the order of its tensors."""

import os

import gguf
import numpy as np
import pytest
from gguf import quants

from luq_gguf.core.errors import GGUFFileError, VerificationError
from luq_gguf.core.units import padded
from luq_gguf.llamacpp.gguf import reader, splice, validate

NAMES = [f"blk.{n}.weight" for n in range(8)]
TYPES = ("F16", "Q8_0", "Q4_0")


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Files of the same matrices in one type each, which count as written long ago."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((4 + n // 2, 64), np.float32) for n in range(len(NAMES))]
    files = []
    for kind in TYPES:
        writer = gguf.GGUFWriter(tmp_path / f"{kind}.gguf", "llama")
        writer.add_name("bank")
        writer.add_token_list([f"token {n}" for n in range(50)])
        for name, matrix in zip(NAMES, matrices, strict=True):
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, quants.quantize(matrix, raw), raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(tmp_path / f"{kind}.gguf")
    monkeypatch.setattr("luq_gguf.core.hashing._TICK", 0.0)
    return files


def types(letters: str) -> dict[str, str]:
    """One letter a tensor: f, q (Q8_0) or 4."""
    return {name: TYPES["fq4".index(letter)] for name, letter in zip(NAMES, letters, strict=True)}


def test_it_is_the_file_that_is_spliced_anew_and_little_is_written(bank, tmp_path):
    point, written = splice.Point(tmp_path / "point.gguf"), []
    for letters in ("ffffffff", "ffqfffff", "ff4fffff", "ff4fffff", "ff4f4fff", "ffqfqfff", "qqqqqqqq", "ffffffff"):
        written.append(point.become(bank, types(letters)))
        held = reader.read(point.path)
        order = [tensor.name for tensor in held.tensors]
        splice.splice(bank, types(letters), tmp_path / "anew.gguf", order=order)
        assert point.path.read_bytes() == (tmp_path / "anew.gguf").read_bytes(), letters
        assert held.types == types(letters)
        assert sorted(order) == NAMES
    whole, head, changed = held.n_bytes, held.header_bytes, reader.type_bytes("Q4_0", 5 * 64)
    behind = sum(tensor.n_bytes for tensor in reader.read(bank[0]).tensors if tensor.name > "blk.2")
    assert written[0] == whole
    assert written[1] == head + behind - reader.type_bytes("F16", 5 * 64) + padded(
        reader.type_bytes("Q8_0", 5 * 64), 32
    )
    assert written[2] == head + padded(changed, 32), "what changed last lies at the end"
    assert written[3] == head, "nothing has changed"
    assert written[-1] == whole, "all have"


def test_what_finds_room_where_another_was_moves_nothing(bank, tmp_path):
    point = splice.Point(tmp_path / "point.gguf")
    point.become(bank, types("qfffff4f"))
    n_bytes = point.become(bank, types("fqfffff4"))
    info = reader.read(point.path)
    changed = [tensor.n_bytes for tensor in info.tensors if tensor.name in (*NAMES[:2], *NAMES[-2:])]
    assert n_bytes == info.header_bytes + sum(padded(size, 32) for size in changed)
    assert n_bytes < info.n_bytes


def test_any_sequence_gives_the_bytes_of_a_file_spliced_anew(bank, tmp_path):
    point, rng = splice.Point(tmp_path / "point.gguf"), np.random.default_rng(1)
    letters = ["f"] * len(NAMES)
    for _ in range(60):
        for place in rng.integers(0, len(NAMES), rng.integers(1, 4)):
            letters[place] = "fq4"[rng.integers(3)]
        wanted = types("".join(letters))
        point.become(bank, wanted)
        order = [tensor.name for tensor in reader.read(point.path).tensors]
        splice.splice(bank, wanted, tmp_path / "anew.gguf", order=order)
        assert point.path.read_bytes() == (tmp_path / "anew.gguf").read_bytes()


def test_contents_of_the_bank_that_changed_are_copied_again(bank, tmp_path):
    point = splice.Point(tmp_path / "point.gguf")
    point.become(bank, types("qqqqqqqq"))
    data = bytearray(bank[1].read_bytes())
    data[-40] ^= 0xFF
    bank[1].write_bytes(data)
    os.utime(bank[1], ns=(1, 1))  # the clock may not have ticked
    point.become(bank, types("qqqqqqqq"))
    splice.splice(bank, types("qqqqqqqq"), tmp_path / "anew.gguf")
    assert point.path.read_bytes() == (tmp_path / "anew.gguf").read_bytes()


def test_a_file_that_was_just_written_may_change_unnoticed(bank, tmp_path, monkeypatch):
    monkeypatch.setattr("luq_gguf.core.hashing._TICK", 3600.0)
    point = splice.Point(tmp_path / "point.gguf")
    for _ in range(2):
        assert point.become(bank, types("qqqqffff")) == point.path.stat().st_size


def test_a_missing_type_leaves_the_point_as_it_was(bank, tmp_path):
    point = splice.Point(tmp_path / "point.gguf")
    point.become(bank, types("qqqqffff"))
    before = point.path.read_bytes()
    with pytest.raises(VerificationError, match=r"do not contain blk\.3\.weight in Q5_1"):
        point.become(bank, types("qqqqffff") | {"blk.3.weight": "Q5_1"})
    assert point.path.read_bytes() == before
    assert point.become(bank, types("qqqqffff")) < len(before)


def test_a_header_is_read_once_until_the_file_changes(bank, monkeypatch):
    read = []
    checked = validate._checked
    monkeypatch.setattr(validate, "_checked", lambda path: (read.append(path), checked(path))[1])
    assert validate.check(bank[0]) == validate.check(bank[0])
    assert len(read) <= 1
    read.clear()
    bank[0].write_bytes(bank[0].read_bytes()[:-64])
    for _ in range(2):
        with pytest.raises(GGUFFileError, match="its tensors need"):
            validate.check(bank[0])
    assert len(read) == 2, "what is wrong is not kept"


def test_where_entries_lie(bank):
    assert validate.entry(bank[0], "general.name") == validate.entry(bank[1], "general.name")
    assert validate.entry(bank[0], "general.name").endswith(b"bank")
    assert validate.entry(bank[0], "tokenizer.ggml.tokens").endswith(b"token 49")
    assert validate.entry(bank[0], "tokenizer.chat_template") is None
    assert validate.check(bank[0]).infos_at == gguf.GGUFReader(bank[0]).tensors[0].field.offset


def test_the_faster_reader_reads_what_the_package_reads(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"):
        getattr(writer, f"add_{name}")(f"a.{name}", 7)
    writer.add_bool("a.bool", val=True)
    writer.add_string("a.text", "größer")
    writer.add_array("a.texts", ["", "ä", "long " * 40])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.shares", [0.5, 0.25])
    writer.add_array("a.truths", [True, False])
    writer.add_tensor("t", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = reader.open_reader(tmp_path / "all.gguf"), gguf.GGUFReader(tmp_path / "all.gguf")
    assert list(ours.fields) == list(theirs.fields)
    for name, entry in theirs.fields.items():
        assert (ours.fields[name].contents(), ours.fields[name].types) == (entry.contents(), entry.types), name
        assert sum(p.nbytes for p in ours.fields[name].parts) == sum(p.nbytes for p in entry.parts), name
    assert ours.fields["a.texts"].contents() == ["", "ä", "long " * 40]
    assert ours.tensors[0].data.tolist() == theirs.tensors[0].data.tolist()
