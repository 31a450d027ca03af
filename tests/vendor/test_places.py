"""Where builds are made: what killed ones leave is found, and a place that cannot hold one is named."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build
import package_index
import places
import pytest

WAIT = "import places, time\nwith places.work_folder('llama.cpp'): print('there', flush=True); time.sleep(60)"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "luq-gguf"


def test_what_a_killed_build_leaves_is_removed_by_the_next_and_a_running_one_is_left_alone(root):
    search = os.environ | {"PYTHONPATH": str(Path(places.__file__).parent)}
    running = subprocess.Popen([sys.executable, "-c", WAIT], env=search, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout.readline() == "there\n"
        (folder,) = (root / places.WORK).iterdir()
        (folder / "object.o").write_bytes(bytes(100))
        with places.work_folder("other"):
            assert places.leftovers() == []
        assert folder.exists()
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert places.leftovers() == [folder]
        with places.work_folder("other") as other:
            assert list((root / places.WORK).iterdir()) == [other]
    finally:
        running.kill()
        running.communicate()
    assert not any((root / places.WORK).iterdir())


def test_what_older_versions_left_is_found_once_it_is_old(root, tmp_path):
    old = [
        root / "llama.cpp-0.3.36-0123456789ab.x7_q0zab",
        root / "kernels-0.3.36-0123456789ab.x7_q0zab",
        root / "checkpoints" / "0123456789abcdef01234567.x7_q0zab",
        tmp_path / "temporary" / "pip-download-a" / "llama-cpp-python_1" / "vendor",
        tmp_path / "temporary" / "pip-unpack-b",
    ]
    kept = [root / "llama.cpp-0.3.36-0123456789ab", root / "checkpoints" / "0123456789abcdef01234567"]
    kept += [root / "llama.cpp-0.3.36.post1-0123456789ab", tmp_path / "temporary" / "pip-download-c" / "torch"]
    for folder in (*old, *kept):
        folder.mkdir(parents=True, exist_ok=True)
    (old[4] / "llama_cpp_python-0.3.36.tar.gz").touch()
    assert places.leftovers() == []
    for folder in (*old, *kept, old[3].parents[1]):
        os.utime(folder, (time.time() - places.OLD - 60,) * 2)
    assert set(places.leftovers()) == {*old[:3], old[3].parents[1], old[4]}


def test_a_place_that_cannot_hold_a_build_is_named(root, tmp_path, monkeypatch):
    places.check(10**6)
    with pytest.raises(places.RecipeError, match=r"MB are needed in .*, but .* MB are free"):
        places.check(10**18)
    with monkeypatch.context() as noexec:
        flags = os.ST_NOEXEC
        noexec.setattr(os, "statvfs", lambda folder: type("Result", (), {"f_flag": flags, "f_bavail": 1}))
        noexec.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 0, 10**12))
        with pytest.raises(places.RecipeError, match=r"does not run programs \(it is mounted noexec\)"):
            places.check(10**6)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(places.RecipeError, match="cannot be written: Not a directory") as caught:
        places.check(10**6)
    assert "XDG_CACHE_HOME" in caught.value.hint
    with pytest.raises(places.RecipeError, match="cannot be written"), places.work_folder("name"):
        pass


def test_a_full_disk_is_a_sentence_and_leaves_nothing(root):
    with pytest.raises(places.RecipeError, match="is full"), places.work_folder("name"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not any((root / places.WORK).iterdir())


def test_a_user_without_a_home_folder_is_a_sentence(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # unknown to the system
    with pytest.raises(places.RecipeError, match="no home folder"):
        places.cache_root()


def test_what_a_build_takes_is_said_and_what_is_missing(root, tmp_path, monkeypatch):
    words = build.requirements(portable=False)
    for part in ("minute", f"a download of {build.PIN['sdist_mb']} MB", f"{build.PIN['build_mb']} MB in {root}", "c++"):
        assert part in words
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.platform", "darwin")
        with pytest.raises(places.RecipeError, match="on Linux only"):
            build.requirements(portable=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(places.RecipeError, match="there is no C\\+\\+ compiler"):
        build.build()


def test_a_damaged_build_is_not_used(root):
    folder = root / "llama.cpp-x"
    for name in build.PIN["tools"]:
        (folder / "llama_cpp" / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "llama_cpp" / "bin" / name).touch()
    known = {"recipe": build._recipe(), "machine": build.platform.machine(), "needs": [], "selftest": True}
    (folder / "build.json").write_text(build.json.dumps(known))
    assert build.usable(folder)
    (folder / "llama_cpp" / "bin" / "llama-quantize").unlink()
    assert not build.usable(folder)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"UV_DEFAULT_INDEX": "https://a/simple"}, {"PIP_INDEX_URL": "https://a/simple"}),
        ({"UV_INDEX_URL": "https://a", "PIP_INDEX_URL": "https://b"}, {}),
        (
            {"UV_INDEX": "own=https://a?x=1 https://b?y=2", "UV_FIND_LINKS": "/wheels"},
            {"PIP_EXTRA_INDEX_URL": "https://a?x=1 https://b?y=2", "PIP_FIND_LINKS": "/wheels"},
        ),
        ({}, {}),
    ],
)
def test_indexes_that_uv_is_told_about(environment, expected):
    assert package_index.settings(environment) == expected


def test_an_environment_without_pip_gets_one_for_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    python = package_index._python(tmp_path)
    assert Path(python).is_relative_to(tmp_path)
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
