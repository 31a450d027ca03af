"""Finds vendor/, the recipe of the pinned llama.cpp, and imports its modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType


def recipe() -> Path:
    """Return the path of vendor/build.py: next to the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_vendor" / "build.py"
    return installed if installed.exists() else package.parent / "vendor" / "build.py"


def setup_command() -> str:
    """Return the command that builds llama.cpp: scripts/setup in the environment that it made in a clone, else
    `luq-gguf setup`."""
    clone = recipe().parent.parent
    ours = Path(sys.prefix) == clone / ".venv" and (clone / "scripts" / "setup").is_file()
    return "scripts/setup" if ours else "luq-gguf setup"


@cache
def vendor(module: str) -> ModuleType:
    """Import a module of the recipe. Its folder is a package that nothing else knows by name."""
    name, folder = "luq_gguf_vendor", recipe().parent
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.{module}")
