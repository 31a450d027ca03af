"""The kernels' library, compiled once into the user's cache against the headers of the pinned llama.cpp.

The folder's name carries the pin and the sources, so that it is built again when either changes; it runs on any CPU of
the architecture. Needs a C++ compiler; CMake comes from the package index where the machine has none.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from luq_gguf.core import atomic, paths
from luq_gguf.core.errors import KernelsError
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
        with atomic.whole_folder(target) as new_folder:
            build = new_folder.parent / "build"
            compile_sources(build)
            shutil.copy(build / LIBRARY, new_folder / LIBRARY)
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
    except (OSError, SystemExit) as error:  # the recipe is a script too, and ends with a sentence
        reason = str(error).splitlines()[-1].rstrip(".")
        raise KernelsError(
            f"The kernels cannot be built: the pinned llama.cpp's headers cannot be downloaded ({reason}).",
            "They are downloaded once, with its sdist, from the package index: try again with a network connection.",
        ) from None
    cmake, ninja = _tool("cmake", into.parent), None if shutil.which("make") else _tool("ninja", into.parent)
    configure = [cmake, "-S", str(SOURCES), "-B", str(into), "-DCMAKE_BUILD_TYPE=Release", f"-DGGML_HEADERS={headers}"]
    configure += [f"-DLUQ_GGML_VERSION={ggml_version(headers)}", *arguments]
    configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    for command in (configure, [cmake, "--build", str(into), "--target", *targets]):
        try:
            child.run(command, child.Failure(KernelsError, "The kernels' build", "The lines above are CMake's own."))
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


def _tool(name: str, folder: Path) -> str:
    """A program of the machine, or else of the package index, where a wheel bears the program's name."""
    installed = shutil.which(name)
    if installed:
        return installed
    into = folder / name
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(into)]
    if subprocess.run([*pip, name]).returncode:
        raise KernelsError(
            f"The kernels cannot be built: {name} is not installed, and pip cannot install it.", f"Install {name}."
        )
    packed = into / name / "data" / "bin" / name  # beside it, bin/cmake is a script that looks for its package
    return str(packed if packed.exists() else into / "bin" / name)
