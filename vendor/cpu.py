"""What the CPU at hand can do that ggml's code asks for, and the compiler flags for it. Standard library only."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

# The instruction sets that ggml-cpu's sources test for (the macros __AVX2__ and so on), as /proc/cpuinfo names them.
# Other flags of /proc/cpuinfo, such as those of mitigations, change nothing in the code.
X86: Mapping[str, str] = {
    "sse4_2": "-msse4.2",
    "avx": "-mavx",
    "f16c": "-mf16c",
    "fma": "-mfma",
    "bmi2": "-mbmi2",
    "avx2": "-mavx2",
    "avx_vnni": "-mavxvnni",
    "avx_vnni_int8": "-mavxvnniint8",
    "gfni": "-mgfni",
    "avx512f": "-mavx512f",
    "avx512cd": "-mavx512cd",
    "avx512vl": "-mavx512vl",
    "avx512dq": "-mavx512dq",
    "avx512bw": "-mavx512bw",
    "avx512vbmi": "-mavx512vbmi",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bf16": "-mavx512bf16",
    "avx512_fp16": "-mavx512fp16",
    "amx_tile": "-mamx-tile",
    "amx_int8": "-mamx-int8",
    "amx_bf16": "-mamx-bf16",
}
ARM = ("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "svei8mm", "sve2", "sme")
X86_64_V3 = ("sse4_2", "avx", "f16c", "fma", "bmi2", "avx2")
ARM_V8_2 = ("asimd", "asimdhp", "asimddp")
ARM_V8_2_FLAGS = ("-DGGML_NATIVE=OFF", "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod")
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Choice:
    """What a build is made with: features that its CPU must have, flags of ggml-cpu, options of ggml's CMake."""

    needs: frozenset[str]
    flags: tuple[str, ...] = ()
    cmake_args: tuple[str, ...] = ()


def is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def listed(cpuinfo: str) -> frozenset[str]:
    """Return the features that matter, from the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split()).intersection({*X86, *ARM})
    return frozenset()


@cache
def present() -> frozenset[str]:
    """Return the features of this CPU; none where the system does not list them."""
    try:
        return listed(Path("/proc/cpuinfo").read_text())
    except OSError:
        return frozenset()


@cache
def usable_features() -> frozenset[str]:
    """Return the features that the compiler has flags for: an old one does not know what a new CPU can do."""
    if not is_x86():
        return present()
    here = present().intersection(X86)
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None or _accepts(compiler, *(X86[name] for name in here)):
        return here
    return frozenset(name for name in here if _accepts(compiler, X86[name]))


def _accepts(compiler: str, *flags: str) -> bool:
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", "-"]
    return subprocess.run(command, input="int main() {}", text=True, capture_output=True).returncode == 0


def portable_features() -> frozenset[str]:
    """Return what every CPU of a portable build has: x86-64-v3 (Haswell, Zen and later), or armv8.2 with dot
    products."""
    return frozenset(X86_64_V3 if is_x86() else ARM_V8_2)


def choose(features: frozenset[str]) -> Choice:
    """Return the flags for these features. On Arm the compiler asks the CPU itself, except for a portable build."""
    if is_x86():
        return Choice(features, tuple(flag for name, flag in X86.items() if name in features))
    return Choice(features, (), ARM_V8_2_FLAGS if features == portable_features() else ("-DGGML_NATIVE=ON",))


def without(choice: Choice, buffer: str) -> tuple[str, Choice] | None:
    """Return what to leave out when products in a buffer type fail, and what remains; None where nothing is left to
    try."""
    amx = {name for name in choice.needs if name.startswith("amx")}
    if buffer == "AMX" and amx:
        return "AMX", replace(choose(choice.needs - amx), cmake_args=choice.cmake_args)
    no_repack = "-DGGML_CPU_REPACK=OFF"
    if buffer == "CPU_REPACK" and no_repack not in choice.cmake_args:
        return "repacking", replace(choice, cmake_args=(*choice.cmake_args, no_repack))
    if choice.needs > portable_features():
        kept = tuple(argument for argument in choice.cmake_args if argument == no_repack)
        portable = choose(portable_features())
        name = "AVX-512" if is_x86() else "what armv8.2 lacks"
        return name, replace(portable, cmake_args=(*portable.cmake_args, *kept))
    return None
