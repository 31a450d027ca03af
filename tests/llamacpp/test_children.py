"""What is said of llama.cpp's programs that cannot start, or that crash."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from luq_gguf.core.errors import ConversionError, ToolsError
from luq_gguf.llamacpp import child, tools


@pytest.mark.parametrize(
    ("output", "library", "package"),
    [
        (
            "llama-quantize: error while loading shared libraries: libgomp.so.1: cannot open shared object file",
            "libgomp.so.1",
            "apt-get install libgomp1",
        ),
        (
            "OSError: libgomp.so.1: cannot open shared object file: No such file or directory",
            "libgomp.so.1",
            "libgomp on Fedora",
        ),
        (
            "Failed to load shared library: libstdc++.so.6: cannot open shared object file",
            "libstdc++.so.6",
            "libstdc++6 on Debian",
        ),
        (
            "./a: error while loading shared libraries: libgone.so: cannot open shared object file",
            "libgone.so",
            "package",
        ),
    ],
)
def test_a_missing_library_is_named_with_its_package(output, library, package):
    error = child.missing_library(output)
    assert error is not None
    assert library in error.message
    assert package in error.hint


def test_other_output_names_no_library():
    assert child.missing_library("error: cannot open model.gguf") is None


@pytest.fixture
def cannot_start(tmp_path):
    """A program that is linked to a library which is not there any more."""
    (tmp_path / "gone.c").write_text("int gone(void) { return 0; }\n")
    (tmp_path / "main.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    for command in ("gcc -shared -fPIC gone.c -o libgone.so", "gcc main.c -L. -lgone -o program"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    (tmp_path / "libgone.so").unlink()
    return tmp_path / "program"


def test_a_program_that_cannot_start(cannot_start):
    with pytest.raises(ToolsError, match=r"the shared library libgone\.so is missing"):
        child.run([cannot_start], child.Failure(ConversionError, "llama-quantize"))


def test_a_program_that_crashes():
    with pytest.raises(ConversionError, match=r"It crashed \(segmentation fault\)") as caught:
        child.run(["sh", "-c", "kill -SEGV $$"], child.Failure(ConversionError, "It"))
    assert "luq-gguf doctor" in caught.value.hint


def test_doctor_calls_a_tool_ok_only_when_it_ran(cli, llama, cannot_start, tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "bin").mkdir(parents=True)
    for tool in llama.tools.iterdir():
        (own / "bin" / tool.name).symlink_to(tool)
    (own / "bin" / "llama-bench").unlink()
    (own / "bin" / "llama-bench").symlink_to(cannot_start)
    (own / "convert_hf_to_gguf.py").symlink_to(llama.converter)
    monkeypatch.setenv("LUQ_LLAMA_CPP", str(own))
    done = cli("doctor", "--json")
    assert done.returncode == 1
    (wrong,) = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert wrong["name"] == "llama-bench"
    assert "libgone.so is missing" in wrong["found"]
    assert "Install the package" in wrong["hint"]


def test_a_users_own_build_is_tested_when_first_met(llama, cannot_start, tmp_path, monkeypatch):
    """A real build beside whose tools a faulty kernel is loaded; then the same without it, which is remembered."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "bin").symlink_to(llama.tools)
    (own / "lib").symlink_to(llama.libraries)
    (own / "convert_hf_to_gguf.py").symlink_to(llama.converter)
    monkeypatch.setenv("LUQ_LLAMA_CPP", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    faulty = tmp_path / "faulty.so"
    source = Path(__file__).parents[1] / "support" / "faulty_product.c"
    subprocess.run(["gcc", "-O1", "-fPIC", "-shared", source, "-o", faulty], check=True)
    with monkeypatch.context() as broken:
        broken.setenv("LD_PRELOAD", str(faulty))
        broken.setenv("FAULT", "crash")
        if tools.self_test(tools.find(untested=True)).failures:  # not where this CPU repacks nothing
            with pytest.raises(ToolsError, match=r"Q4_K in buffer CPU_REPACK with 1 column crashed"):
                tools.find()
    assert tools.find().tools == own / "bin"
    assert len(list((tmp_path / "cache" / "luq-gguf" / "selftests").iterdir())) == 1
    assert tools.find().libraries == own / "lib"


def test_a_self_test_that_cannot_write_its_file_blames_no_build(llama, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(ToolsError, match=r"cannot be written to .*file \(Not a directory\)") as caught:
        tools.self_test(replace(llama, libraries=None))
    assert "TMPDIR" in caught.value.hint
