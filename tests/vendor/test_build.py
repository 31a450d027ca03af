"""Which builds in the cache are taken, and which are named as unused."""

import json
import os
import time

import build
import cpu
import pytest

SOUND = {"recipe": build._recipe(), "machine": build.platform.machine(), "selftest": True}


def add_tools(folder):
    (folder / "llama_cpp" / "bin").mkdir(parents=True)
    for name in build.PIN["tools"]:
        (folder / "llama_cpp" / "bin" / name).touch()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def add(name, **facts):
        folder = build.cache_root() / f"llama.cpp-{build.PIN['version']}-{name}"
        folder.mkdir(parents=True)
        (folder / "build.json").write_text(json.dumps(SOUND | facts))
        add_tools(folder)
        return folder

    return add


def test_the_build_that_uses_most_of_the_cpu_is_taken(cache):
    here = sorted(cpu.present())
    portable, larger = cache("portable", needs=here[:1]), cache("larger", needs=here[:2])
    cache("elsewhere", needs=[*here, "avx1024"])
    assert build.cache_folder() == larger
    own = build.folder_for(cpu.usable_features())
    own.mkdir()
    (own / "build.json").write_text(json.dumps(SOUND | {"needs": here}))
    add_tools(own)
    assert build.cache_folder() == own
    assert build.usable(portable)


@pytest.mark.parametrize(
    "facts",
    [
        {"needs": ["avx1024"]},
        {"needs": [], "recipe": "older"},
        {"needs": [], "selftest": False},
        {"needs": [], "machine": "riscv64"},
        {},
    ],
)
def test_a_build_that_cannot_run_here_is_not_taken(cache, facts):
    folder = cache("other", **facts)
    assert not build.usable(folder)
    assert build.cache_folder() != folder


def test_builds_of_another_recipe_and_of_killed_runs_are_unused(cache):
    kept, older = cache("kept", needs=[]), cache("older", needs=[], recipe="older")
    killed, running = cache("killed", needs=[]), cache("running", needs=[])
    for folder in (killed, running):
        (folder / "build.json").unlink()
    os.utime(killed, (time.time() - 86400,) * 2)
    (older / "libllama.so").write_bytes(bytes(1000))
    found = dict(build.unused())
    assert set(found) == {older, killed}
    assert found[older] > 1000
    build._list_unused(remove=True)
    assert kept.exists()
    assert running.exists()
    assert not older.exists()


def test_where_a_portable_build_lies_is_told_beside_a_build_of_this_cpu(cache, monkeypatch, capsys):
    cache("own", needs=[])
    monkeypatch.setattr("sys.argv", ["build.py", "--where", "--portable"])
    build.main()
    assert capsys.readouterr().out.strip() == str(build.folder_for(cpu.portable_features()))
    monkeypatch.setattr("sys.argv", ["build.py", "--where"])
    build.main()
    assert capsys.readouterr().out.strip().endswith("-own")
