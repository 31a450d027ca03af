"""Files and folders that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from luq_gguf.core import atomic


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic.whole(path) as part:
        part.write_text("new")
        assert (part.name, path.read_text()) == ("a.json.luq.part", "old")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "new"}


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_what_could_not_be_finished_is_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ValueError, match="mid-write"), atomic.whole(path) as part:
        if kind == "file":
            part.write_text("half")
        elif kind == "folder":
            part.mkdir()
            (part / "one").write_text("half")
        raise ValueError("mid-write")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "old"}


def test_of_two_that_make_a_folder_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "build"
    with atomic.whole_folder(path) as slow:
        (slow / "by").write_text("slow")
        with atomic.whole_folder(path) as fast:
            (fast / "by").write_text("fast")
    assert (path / "by").read_text() == "fast"
    assert [p.name for p in path.parent.iterdir()] == ["build"]
