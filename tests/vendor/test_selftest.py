"""The self-test finds what is broken in a build, and names it."""

import os
import subprocess
from pathlib import Path

import cpu
import pytest
import selftest

SUPPORT = Path(__file__).parents[1] / "support"


def compile_library(source, out):
    subprocess.run(["gcc", "-O1", "-fPIC", "-shared", SUPPORT / source, "-o", out], check=True)
    return out


@pytest.fixture(scope="module")
def sound(llama):
    return selftest.run(llama.libraries, llama.tools)


def test_the_build_in_use_computes_every_type(sound):
    assert [str(result) for result in sound if not result.ok] == []
    plain = {(r.type, (r.columns, r.batches, r.matrices)) for r in sound if r.buffer == "CPU"}
    assert plain == {(kind, shape) for kind in selftest.TYPES for shape in selftest.SHAPES}
    amx = {(r.columns, r.batches, r.matrices) for r in sound if r.buffer == "AMX"}
    assert amx in (set(), {shape for shape in selftest.SHAPES if shape[2] == 1})  # of several matrices: not there
    assert sum(result.buffer == "file" for result in sound) == 3
    assert all(result.error < 0.02 for result in sound if result.error is not None)


@pytest.mark.parametrize(
    ("fault", "failure"), [("crash", "crashed (segmentation fault)"), ("zero", "computes something else (off by 1 of")]
)
def test_a_faulty_kernel_is_named_and_the_rest_is_tried(llama, sound, tmp_path, monkeypatch, fault, failure):
    if not any((result.type, result.buffer) == ("Q4_K", "CPU_REPACK") for result in sound):
        pytest.skip("needs AVX2: without it Q4_K is not repacked here")
    monkeypatch.setenv("LD_PRELOAD", str(compile_library("faulty_product.c", tmp_path / "faulty.so")))
    monkeypatch.setenv("FAULT", fault)
    results = selftest.run(llama.libraries)
    (wrong,) = [result for result in results if not result.ok]
    assert (wrong.type, wrong.buffer, wrong.columns) == ("Q4_K", "CPU_REPACK", 1)
    assert wrong.failure.startswith(failure)
    assert len(results) == len([result for result in sound if result.buffer != "file"])


def test_libraries_that_are_not_there(tmp_path):
    (result,) = selftest.run(tmp_path)
    assert "cannot be loaded" in result.failure


def test_ends_in_words():
    assert selftest.ended(-11) == "crashed (segmentation fault)"
    assert selftest.ended(-4) == "crashed (illegal instruction)"
    assert selftest.ended(-9) == "was killed (perhaps because memory ran out)"
    assert selftest.ended(-15) == "was killed (terminated)"
    assert selftest.ended(3) == "ended with exit code 3"


@pytest.mark.skipif(not cpu.is_x86(), reason="needs an x86-64 CPU")
@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_the_whole_tile_configuration_is_written(tmp_path, level):
    """Without amx_tile_config.h GCC 12 drops it, and this program crashes."""
    program, header = tmp_path / "product", Path(selftest.__file__).with_name("amx_tile_config.h")
    flags = ["-mamx-tile", "-mamx-int8", "-include", header]
    compiled = subprocess.run(["g++", level, *flags, SUPPORT / "amx_product.cpp", "-o", program], capture_output=True)
    if compiled.returncode:
        pytest.skip("needs a compiler that knows AMX")
    emulator = compile_library("amx_emulator.c", tmp_path / "amx.so")
    environment = os.environ if "amx_int8" in cpu.present() else os.environ | {"LD_PRELOAD": str(emulator)}
    assert subprocess.run([program], env=environment).returncode == 0
