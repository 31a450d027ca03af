"""Names what an operating system lacks, where Python's traceback would."""

from __future__ import annotations

import importlib
import platform
import sys
from types import ModuleType

from luq_gguf.core.errors import ToolsError


def module(name: str) -> ModuleType:
    """Import a module of the standard library that Python has on Unix only, such as `resource`. Raises ToolsError where
    it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ToolsError(
            f"This command needs Python's module {name}, which {platform.system() or sys.platform} does not have.",
            "Run luq-gguf on Linux: on Windows in WSL, elsewhere in a container or a virtual machine.",
        ) from None
