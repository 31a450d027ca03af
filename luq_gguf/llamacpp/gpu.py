"""Layers on a GPU: what --gpu-layers needs of the llama.cpp in use, which the pinned build, made for the CPU, lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luq_gguf.core.errors import DeviceError
from luq_gguf.core.hashing import contents_of, hash_of
from luq_gguf.core.speeds import ON_CPU
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.tools import LlamaCpp

_LIBRARIES = {"BLAS", "ZenDNN", "zDNN"}  # what llama.cpp lists beside GPUs and runs no layers on
_DEVICE = re.compile(r"^\s+(\w+): (.+?)(?: \(\d+ MiB, \d+ MiB free\))?\s*$")
_NEEDED = ("libllama.so", "libmtmd.so", "libggml.so")


@dataclass(frozen=True)
class Offload:
    """How many layers are to run on a GPU, on which devices, and the shared libraries that can do so in a process of
    ours (None: those of this build cannot, `why_not`). `key` stands for all that changes what is computed."""

    layers: int
    devices: tuple[str, ...]
    libraries: Path | None
    why_not: str
    key: str


def offload(layers: int | None) -> Offload | None:
    """Return what --gpu-layers asks for; None for no layers. Raises DeviceError where the llama.cpp in use has no GPU
    backend, or finds no GPU, and ToolsError as `tools.find` does."""
    if not layers:
        return None
    llama = tools.find()
    devices = devices_in(tools.output(llama.tool("llama-bench"), "--list-devices"))
    if not devices:
        raise DeviceError(
            f"--gpu-layers {layers}: the llama.cpp in {llama.tools} has no GPU backend, or does not find a GPU.",
            f"Set {tools.ENVIRONMENT_VARIABLE} to a llama.cpp that was built for this GPU, or leave --gpu-layers out.",
        )
    why_not = _why_not(llama)
    key = hash_of(tools.identity(llama), layers, devices)
    return Offload(layers, devices, None if why_not else llama.libraries, why_not, key)


def callable_offload(layers: int | None) -> Offload | None:
    """Return the same where the build's libraries can be called. Raises DeviceError where they cannot."""
    wanted = offload(layers)
    if wanted and wanted.why_not:
        raise DeviceError(
            f"--gpu-layers {layers}: {wanted.why_not}.",
            f"Build llama.cpp of {tools.pin()['package']} {tools.pin()['version']} for this GPU with shared libraries.",
        )
    return wanted


def devices_in(text: str) -> tuple[str, ...]:
    """Return the GPUs of llama-bench's list of devices, such as "CUDA0: NVIDIA H200"."""
    lines = text.partition("Available devices:")[2].splitlines()
    devices = [match for match in map(_DEVICE.match, lines) if match and match[1] not in _LIBRARIES]
    return tuple(f"{match[1]}: {match[2]}" for match in devices)


def placement(n_gpu_layers: int, gpus: str) -> str:
    """Return where layers ran, from what llama-bench says of a run."""
    if not n_gpu_layers or not gpus:
        return ON_CPU
    if n_gpu_layers < 0:
        return f"all layers on {gpus}"
    return f"up to {n_gpu_layers} layers on {gpus}, others on the CPU"


def _why_not(llama: LlamaCpp) -> str:
    """Why the bindings of the pinned llama.cpp cannot call a build's libraries; empty where they can. Structures differ
    between versions, which no symbol tells; the converter's sources do."""
    if llama.libraries is None or not all((llama.libraries / name).exists() for name in _NEEDED):
        return f"the llama.cpp in {llama.tools} does not have the shared libraries libllama and libmtmd"
    ours = tools.pinned_build() / "converter" / tools.CONVERTER
    if not llama.pinned and _sources(llama.converter) != _sources(ours):
        return f"the llama.cpp in {llama.tools} is of another version than the one that luq-gguf can call"
    return ""


def _sources(converter: Path) -> str:
    return hash_of(contents_of([converter, *sorted((converter.parent / "conversion").glob("*.py"))]))


def overlay(folder: Path, libraries: Path) -> Path:
    """Return a folder for Python's path with the pinned bindings, which load these libraries instead of their own."""
    package = folder / "llama_cpp"
    package.mkdir(parents=True)
    for path in (tools.pinned_build() / "llama_cpp").iterdir():
        if path.name != "lib":
            (package / path.name).symlink_to(path)
    (package / "lib").symlink_to(libraries.absolute())
    return folder
