"""A file's contents are hashed once, and again when they may have changed: whatever its times say."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from luq_gguf.core import hashing

SIZE = 2 * hashing.KEPT_FROM


@pytest.fixture
def read(tmp_path, monkeypatch) -> list[str]:
    """Names of the files that were really read; the kept hashes lie in a folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, sha256_of = list[str](), hashing.sha256_of
    monkeypatch.setattr(hashing, "sha256_of", lambda path: (names.append(path.name), sha256_of(path))[1])
    return names


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(SIZE))
    return path


def test_a_file_is_read_once_while_nothing_happens_to_it(read, large):
    assert hashing.content_of(large) == hashing.content_of(large)
    assert read == ["large.bin"]
    os.link(large, large.with_name("linked.bin"))  # changes ctime
    assert hashing.content_of(large.with_name("linked.bin")) == hashing.content_of(large)


def test_contents_that_change_under_the_same_size_and_times_are_noticed(read, large):
    before, times = hashing.content_of(large), (large.stat().st_atime_ns, large.stat().st_mtime_ns)
    with large.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"x")
    os.utime(large, ns=times)
    assert hashing.content_of(large) != before
    other = large.with_name("other.bin")
    other.write_bytes(bytes(SIZE))
    os.utime(other, ns=times)
    other.replace(large)
    assert hashing.content_of(large) == before


def test_a_file_that_is_written_again_and_again_at_once(read, large):
    """Within one tick of the clock that files' times are taken from."""
    for number in range(20):
        with large.open("r+b") as file:
            file.write(bytes([number]))
        digest = hashing.content_of(large)
        with large.open("r+b") as file:
            file.write(bytes([number + 1]))
        assert hashing.content_of(large) != digest


def test_touched_or_copied_contents_are_the_same(read, large):
    before = hashing.content_of(large)
    os.utime(large)
    assert hashing.content_of(large) == before == hashing.content_of(Path(shutil.copy(large, large.parent / "copy")))


@pytest.mark.parametrize("place", ["a file", "damaged", "another table"])
def test_a_cache_that_cannot_be_used_costs_time_alone(read, large, tmp_path, place):
    cache = tmp_path / "cache"
    if place == "a file":
        cache.write_text("")
    else:
        (cache / "luq-gguf").mkdir(parents=True)
        (cache / "luq-gguf" / "hashes.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 4096 * (place == "damaged"))
    digests = {hashing.content_of(large) for _ in range(3)}
    assert digests == {hashing.sha256_of(large)}
    assert hashing.asked_once("is it", digests.pop(), lambda: True)


def test_several_files_in_their_order(read, large, tmp_path):
    small = tmp_path / "small"
    small.write_text("x")
    assert hashing.contents_of([small, large]) == [hashing.sha256_of(small), hashing.sha256_of(large)]
    assert hashing.contents_of([]) == []


def test_what_was_answered_with_yes_is_not_asked_again(read):
    asked = []
    for content in ("a", "a", "b"):
        assert hashing.asked_once("is it", content, lambda content=content: bool(asked.append(content)) or True)
    assert asked == ["a", "b"]
    for _ in range(2):
        assert not hashing.asked_once("is it", "c", lambda: bool(asked.append("c")))
    assert asked == ["a", "b", "c", "c"]


def test_looking_up_takes_no_time(read, large):
    hashing.content_of(large)
    started = time.process_time()
    for _ in range(100):
        hashing.content_of(large)
    assert time.process_time() - started < 1
