"""The kernels' library, compiled once into the user's cache against the headers of the pinned llama.cpp.

The folder's name carries the pin and the sources, so that it is built again when either changes; it runs on any CPU of
the architecture. Needs a C++ compiler; CMake comes from the package index where the machine has none.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from luq_gguf.core import paths
from luq_gguf.core.errors import KernelsError, ToolsError
from luq_gguf.llamacpp import child, tools

SOURCES = Path(__file__).parent / "src"
LIBRARY = "libluq-kernels.so"
COMPILERS = ("c++", "g++", "clang++")


def folder() -> Path:
    """Return where the build of these sources for this pin is or will be."""
    pin = tools.pin()
    digest = hashlib.sha256(f"{pin['sha256']} {platform.machine()}".encode())
    for path in sorted(SOURCES.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return paths.cache(f"kernels-{pin['version']}-{digest.hexdigest()[:12]}")


def built() -> Path | None:
    """Return the library, if it has been built."""
    path = folder() / LIBRARY
    return path if path.exists() else None


def library(info: Callable[[str], None] = lambda sentence: None) -> Path:
    """Return the library, building it the first time, which takes half a minute. Raises KernelsError where it cannot be
    built."""
    present = built()
    if present:
        return present
    if sys.platform == "win32":
        raise KernelsError(
            "The kernels cannot be built on Windows: ggml does not export what they need there.",
            "Use stock llama.cpp; everything else works without them.",
        )
    if not any(map(shutil.which, COMPILERS)):
        raise KernelsError(
            f"The kernels cannot be built: there is no C++ compiler ({', '.join(COMPILERS)}).",
            "Install g++ or clang++; everything else works without them.",
        )
    info("building the kernels: this takes half a minute, once")
    target = folder()
    try:
        with tools.work_folder(target.name) as folder_of_build:
            new_folder, build = folder_of_build / "whole", folder_of_build / "build"
            compile_sources(build)
            new_folder.mkdir()
            shutil.copy(build / LIBRARY, new_folder / LIBRARY)
            with suppress(OSError):  # another process may have been faster
                new_folder.rename(target)
    except ToolsError as error:
        raise KernelsError(f"The kernels cannot be built. {error.message}", error.hint) from None
    except OSError as error:
        raise KernelsError(
            f"The kernels cannot be built: {error.filename or target.parent}: {error.strerror}.",
            f"Make {target.parent} a folder that can be written; everything else works without them.",
        ) from None
    return target / LIBRARY


def compile_sources(into: Path, *arguments: str, targets: tuple[str, ...] = ("luq-kernels",)) -> None:
    """Run CMake; `arguments` are additional ones for its first step."""
    try:
        headers = tools.ggml_headers()
    except ToolsError as error:
        reason = error.message.splitlines()[-1].rstrip(".")  # after the words of pip
        raise KernelsError(
            f"The kernels cannot be built: the pinned llama.cpp's headers cannot be downloaded ({reason}).",
            f"They are downloaded once. {error.hint}",
        ) from None
    cmake = tools.build_program("cmake", into.parent)
    ninja = None if shutil.which("make") else tools.build_program("ninja", into.parent)
    configure = [cmake, "-S", str(SOURCES), "-B", str(into), "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_HEADERS={headers}"]
    configure += [f"-DLUQ_GGML_VERSION={ggml_version(headers)}", *arguments]
    configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    for command in (configure, [cmake, "--build", str(into), "--target", *targets]):
        try:
            child.run(
                command,
                child.Failure(KernelsError, "The kernels' build", "The lines above are CMake's own."),
                environment={"TMPDIR": str(into.parent)},
                into=into.parent,
            )
        except OSError as error:
            raise KernelsError(
                f"The kernels cannot be built: {command[0]}: {error.strerror}.",
                "Install CMake; everything else works without them.",
            ) from None


def ggml_version(headers: Path) -> str:
    """Return the version in these ggml headers."""
    text = (headers / "CMakeLists.txt").read_text()
    matches = (re.search(rf"set\(GGML_VERSION_{part} (\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH"))
    return ".".join(match[1] if match else "?" for match in matches)
