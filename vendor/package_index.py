"""Downloads from the package index that this environment's pip is set up for. Standard library only.

pip does it, since it alone knows all of its settings: indexes, credentials, proxies, certificates, wheels on disk. It
is a dependency of luq-gguf; an environment that was made without it gets one of its own for as long as the build takes,
from the copy that Python carries. What uv is told about indexes in its environment variables, pip is told too.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

if __package__:
    from .places import RecipeError, unwritable
else:
    from places import RecipeError, unwritable

# pip's variables, and those of uv that mean the same, newest first.
OF_UV = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
}


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables for pip that say what uv's say, where pip's own are not set. uv's may name an index:
    NAME=URL."""
    said = {}
    for ours, theirs in OF_UV.items():
        value = next((environment[name] for name in theirs if environment.get(name)), None)
        if value and not environment.get(ours):
            urls = (
                word if "://" in word.partition("=")[0] else word.partition("=")[2] or word for word in value.split()
            )
            said[ours] = " ".join(urls)
    return said


def download_sdist(package: str, version: str, folder: Path) -> Path:
    """Download a package's sdist into a folder and return its path. Raises RecipeError."""
    _pip(
        ["download", "--no-deps", "--no-binary", package, "--dest", str(folder), f"{package}=={version}"],
        folder,
        f"The pinned {package} could not be downloaded.",
    )
    return next(folder.glob("*.tar.gz"))


def install_program(name: str, folder: Path) -> str:
    """Install the wheel that bears a program's name into a folder and return the program's path. Raises RecipeError."""
    folder.mkdir(exist_ok=True)
    _pip(["install", "--target", str(folder), name], folder, f"{name} is not installed, and pip cannot install it.")
    packed = folder / name / "data" / "bin" / name  # bin/cmake beside it is a script that looks for its package
    return str(packed if packed.exists() else folder / "bin" / name)


def _pip(arguments: list[str], folder: Path, failure: str) -> None:
    """Run pip with its temporary files in a folder. Its warnings, which are about how the machine is set up, are shown
    only where it fails."""
    command = [_python(folder), "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", "--no-input"]
    environment = os.environ | settings(os.environ) | {"TMPDIR": str(folder)}
    run = subprocess.run(
        [*command, *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if "No space left on device" in run.stdout:
        raise unwritable(OSError(28, "No space left on device"))
    if run.returncode:
        words = "\n".join(run.stdout.splitlines()[-8:])
        raise RecipeError(failure, "Check that the package index is reachable (`pip config list` names it).", words)


def _python(folder: Path) -> str:
    """Return a Python that has pip: this one, else that of an environment made in the folder."""
    if importlib.util.find_spec("pip"):
        return sys.executable
    own = folder / "pip-environment"
    python = own / "bin" / "python"
    if not python.exists() and subprocess.run([sys.executable, "-m", "venv", own], capture_output=True).returncode:
        raise RecipeError(
            "This environment has no pip, which downloads llama.cpp, and this Python carries none.",
            "Install pip into the environment, for instance with `uv pip install pip`.",
        )
    return str(python)
