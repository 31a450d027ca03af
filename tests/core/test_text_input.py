"""Texts as people save them."""

import pytest

from luq_gguf.core import text_input


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfCall me\r\nwhat you like.")
    assert text_input.read(tmp_path / "a.txt") == "Call me\nwhat you like."
    assert text_input.read(tmp_path / "a.txt", 4) == "Call"


@pytest.mark.parametrize("content", [b"", b"a", b"a\0b\0c"])
def test_short_texts_and_null_characters(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    if content.startswith(b"a\0"):
        with pytest.raises(ValueError, match="in UTF-16"):
            text_input.read(tmp_path / "a.txt")
    else:
        assert text_input.read(tmp_path / "a.txt") == content.decode()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("Text".encode("utf-16"), "in UTF-16"),
        ("Text".encode("utf-32"), "in UTF-32"),
        (b"one\ntwo\nd\xe9j\xe0 vu", r"not UTF-8 \(byte 0xe9 in line 3\)"),
        (b"\x1f\x8b\x08\x00\x00", "compressed with gzip"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, what):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        text_input.read(tmp_path / "a.txt")
