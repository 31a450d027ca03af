"""Keeps what the preflight learnt about a checkpoint, per user: the next run folder of the same checkpoint opens at
once.

Kept are the header-only GGUF's header and the matrices that can be calibrated, some megabytes a checkpoint, under a key
of everything they come from.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from luq_gguf._version import __version__
from luq_gguf.core import atomic, checkpoint_view, paths
from luq_gguf.core.hashing import hash_of
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.tools import LlamaCpp

CHECKS = 5  # what the preflight checks: what an earlier number let through is checked again


def key_of(checkpoint: Checkpoint, llama: LlamaCpp) -> str:
    """Return the key of what the preflight learns: it reads no weights, but for those that may be left out."""
    programs = [__version__, *map(version, ("transformers", "gguf"))]
    read = (checkpoint.outline, checkpoint.described, sorted(checkpoint.unused), checkpoint.trust_remote_code)
    shown = *checkpoint_view.in_key(checkpoint.view), *checkpoint.converter_options
    return hash_of(read, tools.identity(llama), programs, CHECKS, *shown)


def _entry_folder(checkpoint: Checkpoint, llama: LlamaCpp) -> Path:
    return paths.cache("checkpoints") / key_of(checkpoint, llama)


def restore(checkpoint: Checkpoint, llama: LlamaCpp, header_file: Path, calibratable: Path) -> bool:
    """Write both files if they are known. Returns False where they are not."""
    entry = _entry_folder(checkpoint, llama)
    try:
        n_bytes = int((entry / "n_bytes").read_text())
        with atomic.whole(header_file) as part:
            shutil.copyfile(entry / "header", part)
            os.truncate(part, n_bytes)  # its weights are a hole
            shutil.copyfile(entry / "listenable.json", calibratable)
    except (OSError, ValueError):
        return False
    return True


def save(checkpoint: Checkpoint, llama: LlamaCpp, header_file: Path, header_bytes: int, calibratable: Path) -> None:
    """Keep both files for the next run folder. A cache that cannot be written is ignored."""
    with (
        suppress(OSError),
        atomic.whole_folder(_entry_folder(checkpoint, llama)) as new_entry,
        header_file.open("rb") as file,
    ):
        (new_entry / "header").write_bytes(file.read(header_bytes))
        (new_entry / "n_bytes").write_text(str(header_file.stat().st_size))
        shutil.copyfile(calibratable, new_entry / "listenable.json")
