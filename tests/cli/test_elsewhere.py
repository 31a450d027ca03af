"""Where the operating system or the environment lacks something: commands end in a sentence, not in a traceback."""

import json
import os
import re
import subprocess
import sys

WITHOUT = """
import json, os, psutil, sys  # psutil is of the system that it runs on
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("copy_file_range", "sched_getaffinity", "statvfs"):
    delattr(os, name)
sys.platform = "darwin"
from luq_gguf import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        cli.main()
    except SystemExit as end:
        print(f"ended with {end.code}", file=sys.stderr, flush=True)
"""
SAID = [
    (["convert", "M", "--out", "{out}", "--low-layers", "1"], 1, "needs Python's module resource, which"),
    (["verify", "{out}"], 1, "needs Python's module resource, which"),
    (["setup"], 1, "built and tested on Linux only"),
    (["inspect", "{out}/none.gguf"], 2, "is not a file"),
    (["cache", "--json"], 0, ""),
]


def test_without_what_only_linux_has(tmp_path):
    commands = [[word.replace("{out}", str(tmp_path)) for word in arguments] for arguments, *_ in SAID]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", WITHOUT, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for part, (_, code, words) in zip(re.split(r"(?<=ended with \d)\n", done.stderr), SAID, strict=False):
        assert words in part
        assert part.endswith(f"ended with {code}")
    assert "Traceback" not in done.stderr
    assert "bug in luq-gguf" not in done.stderr


def test_bytes_are_appended_where_the_system_cannot_copy_ranges(tmp_path, monkeypatch):
    from luq_gguf.core import file_ranges

    monkeypatch.delattr(os, "copy_file_range")
    (tmp_path / "source").write_bytes(b"0123456789")
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        file_ranges.append(source, 2, 5, target)
    assert (tmp_path / "target").read_bytes() == b"23456"


def test_without_a_home_folder_one_sentence(cli, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # unknown to the system
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    for command in ("setup", "cache", "kernels"):
        done = cli(command, env=environment)
        assert (done.returncode, "no home folder" in done.stderr) == (1, True), done.stderr
        assert "Set HOME" in done.stderr


def test_setup_says_what_is_missing_and_where(cli, tmp_path):
    (tmp_path / "file").touch()
    places = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    done = cli("setup", env=os.environ | places)
    assert done.returncode == 1
    assert "cannot be written: Not a directory" in done.stderr
    done = cli("setup", env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "there is no C++ compiler" in done.stderr
    assert "Traceback" not in done.stderr


def test_setup_without_a_package_index(cli, tmp_path):
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = cli("setup", env=os.environ | offline | {"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "The pinned llama-cpp-python could not be downloaded" in done.stderr
    assert "Check that the package index is reachable" in done.stderr
    assert not any((tmp_path / "luq-gguf" / "building").iterdir())


def test_setup_finds_what_is_built(cli, llama):
    done = cli("setup")
    assert done.returncode == 0
    assert str(llama.converter.parents[1]) in done.stdout
    assert done.stderr == ""


def test_a_foreign_llama_cpp_is_never_taken(llama, tmp_path, monkeypatch):
    """Neither one of the working folder, nor of the environment, nor another library by llama-cpp-python's variable."""
    from luq_gguf.diagnostics import doctor
    from luq_gguf.llamacpp import tools

    for folder in (tmp_path, tmp_path / "site-packages"):
        (folder / "llama_cpp").mkdir(parents=True)
        (folder / "llama_cpp" / "__init__.py").write_text("raise SystemExit('a foreign llama_cpp')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site-packages"))
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    check = doctor._bindings()
    assert check.ok, check
    assert "of the pinned build" in check.found
    command = [sys.executable, "-m", "luq_gguf.llamacpp.runtime.worker", "--help"]  # which imports llama_cpp, too
    done = subprocess.run(command, env=tools.bindings_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
