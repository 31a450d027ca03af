"""What is said of llama.cpp's programs that cannot start, or that crash."""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import in_child

from luq_gguf.core.errors import ConversionError, RunnerError, ToolsError
from luq_gguf.diagnostics import doctor
from luq_gguf.llamacpp import child, quantize, tools
from luq_gguf.llamacpp.tools import LlamaCpp


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


def test_a_program_killed_for_want_of_memory_hints_at_memory_and_slices(tmp_path, monkeypatch):
    (tmp_path / "llama-quantize").write_text("#!/bin/sh\nkill -KILL $$\n")
    (tmp_path / "llama-quantize").chmod(0o755)
    tools = LlamaCpp(tmp_path, tmp_path / "converter", pinned=False, libraries=None)
    plan = SimpleNamespace(high="Q4_K_M")
    with pytest.raises(
        ConversionError, match=r"llama-quantize was killed \(perhaps because memory ran out\)"
    ) as killed:
        quantize.quantize(tools, tmp_path / "in.gguf", tmp_path / "out.gguf", plan, tmp_path / "types.txt")
    assert "memory" in killed.value.hint
    assert "--low-disk" in killed.value.hint


def test_a_python_program_takes_and_prints_paths_in_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    folder = tmp_path / "m\u00f6dell"
    folder.mkdir()
    said = child.run(
        [sys.executable, "-c", "import sys; print(ascii(sys.argv[1]), sys.argv[1])", folder],
        child.Failure(ConversionError, "It"),
    )
    assert said == f"{str(folder)!a} {folder}"


def test_our_own_process_knows_paths_as_text_whatever_the_locale(tmp_path):
    missing = tmp_path / "m\u00f6dell" / "a.gguf"
    other = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = in_child("inspect", missing, env=other)
    assert done.returncode == 2
    assert str(missing) in done.stderr


def test_doctor_names_what_is_out_of_bounds(monkeypatch):
    needed = ["click>=8.2", "rich>=13.7", "ruff>=99 ; extra == 'dev'", "no-such-package>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "8.1.7" if name == "click" else real(name))
    checks = {check.name: check for check in doctor._out_of_bounds()}
    assert set(checks) == {"click version", "no-such-package"}
    assert checks["click version"].found == "8.1.7, but luq-gguf needs >=8.2"
    assert checks["click version"].hint == "pip install 'click>=8.2'"


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


def test_a_users_own_build_may_fail_what_only_some_models_need(llama, monkeypatch):
    """As ggml's AMX code does with batches; such a build is right for the others."""
    wrong = tools.vendor("selftest").Result("F16", "AMX", 64, 2, failure="crashed (segmentation fault)")
    monkeypatch.setattr(tools.vendor("selftest"), "run", lambda *_: [wrong])
    test = tools.self_test(llama)
    assert test.failures == ()
    assert test.in_batches == ("F16 in buffer AMX with 64 columns in 2 batches crashed (segmentation fault)",)


def test_an_assertion_is_told_in_ggmls_own_words(llama, tmp_path):
    """No debugger's lines follow, though one may be installed."""
    program = "from llama_cpp._ggml import libggml; libggml.ggml_abort(b'here.c', 7, b'so it ends')"
    command = [tools.python(), "-c", program]
    failure = child.Failure(RunnerError, "It", "")
    with pytest.raises(RunnerError, match=r"^It crashed \(aborted\):\nhere.c:7: so it ends$"):
        child.run(command, failure, environment=tools.bindings_environment())


def test_a_self_test_that_cannot_write_its_file_blames_no_build(llama, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(ToolsError, match=r"cannot be written to .*file \(Not a directory\)") as caught:
        tools.self_test(replace(llama, libraries=None))
    assert "TMPDIR" in caught.value.hint
