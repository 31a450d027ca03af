"""Asks libllama in the preflight whether it can load the text model's file that the converter would write."""

from __future__ import annotations

from pathlib import Path

from luq_gguf.core.errors import CheckpointError, RunnerError
from luq_gguf.llamacpp.runtime.client import LlamaClient


def refusal(header_only: Path) -> str | None:
    """Load a header-only GGUF, whose weights libllama is not asked for: it goes through metadata and tensors as it does
    with the whole file. Returns its words where it refuses."""
    try:
        with LlamaClient(header_only, weights=False):
            return None
    except RunnerError as error:
        return error.message.partition("error loading model: ")[2] or error.message


def check(header_only: Path, name: str) -> None:
    """Raise CheckpointError with libllama's words where it refuses the header-only GGUF of a checkpoint."""
    if words := refusal(header_only):
        raise CheckpointError(
            f"libllama cannot load the file that llama.cpp's converter would write of {name}: {words}",
            "Check that config.json belongs to these weights. If it does, the converter does not know this form of the "
            "model: use the checkpoint as it was published on the Hub.",
        )
