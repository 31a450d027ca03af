"""Names the packages that transformers misses for a model's processor or code, and how to install them here."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

from luq_gguf.core.errors import CheckpointError

EXTRA = "vision"
OF_EXTRA = ("torchvision", "num2words")  # what pyproject.toml has under this name: for processors of some families
_PIP_LINE = re.compile(r"`pip install (?P<several>[^`]+)`|pip install (?:-U )?(?P<one>[\w.\[\]-]*[\w\]])")
_OPTIONAL = re.compile(r"Missing optional dependencies: (?P<several>[\w, -]+)\.")
_NAMED = re.compile(r"(?:[Pp]ackage|library) `?(?P<package>[\w.-]+)`?")


def refusal(name: str, error: BaseException) -> CheckpointError | None:
    """Return what to tell of the model `name` where an error of transformers says that packages are not installed;
    None where it is about something else."""
    if misfit := _misfit(error):
        return CheckpointError(
            f"The installed torchvision was built for another torch: {misfit}.",
            f"Install the one that belongs to torch {version('torch')} with: {install_line('torchvision')}",
        )
    packages = missing(error)
    if not packages:
        return None
    verb, pronoun = ("is", "it") if len(packages) == 1 else ("are", "them")
    return CheckpointError(
        f"transformers needs {' and '.join(packages)} for {name}, which {verb} not installed.",
        f"Install {pronoun} with: {install_line(*packages)}",
    )


def _misfit(error: BaseException) -> str:
    """What torch or the loader says of a torchvision that cannot be imported, however transformers hides it."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if "torchvision" in text and isinstance(cause, RuntimeError | OSError):
            return text.splitlines()[0].rstrip(".")
        cause = cause.__cause__ or cause.__context__
    return ""


def missing(error: BaseException) -> tuple[str, ...]:
    """Return the packages, as pip names them, that an error of transformers says are not installed; empty where it is
    about something else."""
    text = str(error)
    if match := _OPTIONAL.search(text):  # in a ValueError
        return tuple(match["several"].lower().split(", "))
    if not isinstance(error, ImportError):
        return ()
    if backends := tuple(name for name, phrase in _absent_backends().items() if phrase in text):
        return backends
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (error.name.split(".")[0],)
    match = _NAMED.search(text)
    return _on_pip_line(text) or ((match["package"],) if match else ())


def _on_pip_line(text: str) -> tuple[str, ...]:
    """The packages of the first command in a text that installs some."""
    match = _PIP_LINE.search(text)
    return tuple(name for name in (match["several"] or match["one"]).split() if name[0] != "-") if match else ()


def _absent_backends() -> dict[str, str]:
    """pip's name of each package that transformers knows to be missing, and the phrase with which it says so."""
    from transformers.utils.import_utils import BACKENDS_MAPPING

    phrases = {}
    for backend, (is_available, message) in BACKENDS_MAPPING.items():
        if is_available():
            continue
        package = (*_on_pip_line(message), backend)[0]
        phrases[package] = message.replace("{0}", "").strip().splitlines()[0].strip()
    return phrases


def _beside(torch: Version) -> str:
    """What makes pip take the torchvision that belongs to the torch that is there: each needs one of it, and pip would
    take the newest of both. That of torch's CPU build has a build of its own: 0.22.0+cpu is 2.7.0+cpu's."""
    if torch.local == "cpu" and torch.major == 2:
        return f"torchvision==0.{torch.minor + 15}.{torch.micro}+cpu"
    return f"torch=={torch}"


def install_line(*packages: str) -> str:
    """Return the command that installs packages into this Python's environment, and leaves its torch as it is.

    pip is a dependency, so it is there in every environment, if not always in its folder of programs.
    """
    on_path = shutil.which("pip")
    is_own = on_path is not None and Path(on_path).resolve().parent == Path(sys.executable).parent.resolve()
    pip = "pip" if is_own else f"{shlex.quote(sys.executable)} -m pip"
    requirements = [f"luq-gguf[{EXTRA}]"] if set(packages) & set(OF_EXTRA) else []
    requirements += [name for name in packages if name not in OF_EXTRA]
    if "torchvision" in packages:
        with suppress(PackageNotFoundError):
            requirements.append(_beside(Version(version("torch"))))
    return f"{pip} install {' '.join(map(shlex.quote, requirements))}"
