"""What of a CPU decides a build, and what is left out of one that fails."""

import cpu
import pytest

ZEN4 = "flags\t\t: fpu sse4_2 avx f16c fma bmi2 avx2 avx512f avx512_vnni gfni ibrs"
needs_x86 = pytest.mark.skipif(not cpu.is_x86(), reason="needs an x86-64 CPU")


def test_features_that_change_code_count_and_others_do_not():
    features = cpu.listed(ZEN4)
    assert features == {"sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx512f", "avx512_vnni", "gfni"}
    assert cpu.listed(ZEN4 + " its_no_user srso_alias") == features  # a kernel that shows more mitigations
    assert cpu.listed("processor : 0\nFeatures : fp asimd asimddp\n") == {"asimd", "asimddp"}
    assert cpu.listed("processor : 0\n") == frozenset()


@needs_x86
def test_flags_are_those_of_the_features():
    assert cpu.choose(cpu.listed(ZEN4)).flags[-2:] == ("-mavx512f", "-mavx512vnni")
    assert cpu.choose(cpu.portable_features()).flags == ("-msse4.2", "-mavx", "-mf16c", "-mfma", "-mbmi2", "-mavx2")


@needs_x86
def test_what_fails_is_left_out_step_by_step():
    granite = cpu.choose(cpu.portable_features() | {"avx512f", "avx512_vnni", "amx_tile", "amx_int8"})
    name, no_amx = cpu.without(granite, "AMX")
    assert name == "AMX"
    assert not any("amx" in flag for flag in no_amx.flags)
    assert "-mavx512vnni" in no_amx.flags
    name, no_repack = cpu.without(no_amx, "CPU_REPACK")
    assert (name, no_repack.cmake_args) == ("repacking", ("-DGGML_CPU_REPACK=OFF",))
    assert no_repack.flags == no_amx.flags
    name, portable = cpu.without(no_repack, "CPU")
    assert (name, portable.needs) == ("AVX-512", cpu.portable_features())
    assert "-DGGML_CPU_REPACK=OFF" in portable.cmake_args
    assert cpu.without(portable, "CPU") is None
