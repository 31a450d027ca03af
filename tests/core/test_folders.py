"""Which files a folder has: through links, each folder once, and nothing hidden."""

from luq_gguf.core.folders import visible_files


def test_links_are_followed_and_a_loop_ends(tmp_path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("set/b.png", "set/deep/a.png", "other/c.png"):
        (tmp_path / name).touch()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "set" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = [path.resolve().relative_to(tmp_path).as_posix() for path in visible_files(tmp_path / "set")]
    assert sorted(found) == ["other/c.png", "set/b.png", "set/deep/a.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    (tmp_path / ".cache").mkdir()
    for name in ("a.png", "._a.png", ".cache/b.png"):
        (tmp_path / name).touch()
    assert visible_files(tmp_path) == [tmp_path / "a.png"]
