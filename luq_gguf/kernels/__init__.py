"""IQ1_M and IQ1_S at the speed of memory: a library that stock llama.cpp loads, built from `src` on first use. Nothing
here quantizes or knows a run folder.

    GGML_BACKEND_PATH=$(luq-gguf kernels --path) llama-mtmd-cli -m file.gguf     for llama.cpp's tools
    luq_gguf.kernels.register()                                                  for llama-cpp-python

Files, results and everything but the speed of these types stay as they are. How it works: docs/kernels.md.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from luq_gguf.core.errors import KernelsError

TYPES = ("IQ1_M", "IQ1_S")  # of the tensors that they compute

_registered: list[ctypes.CDLL] = []  # the library stays loaded as long as the process


def register(library: Path | None = None) -> str | None:
    """Let llama-cpp-python in this process use the kernels for all models that are loaded from now on.

    Call it before the first model is loaded. Builds the library where it has not been built yet. Returns the path that
    this CPU takes, or None where LUQ_KERNELS=off; raises KernelsError where the kernels cannot be used, and everything
    works on without them then.
    """
    import llama_cpp  # noqa: F401  loads the ggml that is looked for

    from luq_gguf.kernels import build

    loaded = ctypes.CDLL(str(library or build.library()))
    loaded.luq_kernels_register.restype = loaded.luq_kernels_path.restype = ctypes.c_char_p
    refusal = loaded.luq_kernels_register()
    if refusal is not None:
        raise KernelsError(f"The kernels are not used: {refusal.decode()}", "Nothing else is affected.")
    _registered.append(loaded)
    path = loaded.luq_kernels_path()
    return None if path is None else path.decode()
