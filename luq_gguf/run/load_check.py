"""Asks libllama in the preflight whether it can load the text model's file that the converter would write."""

from __future__ import annotations

from pathlib import Path

from luq_gguf.core.errors import CheckpointError, RunnerError
from luq_gguf.llamacpp.runtime.client import LlamaClient


def check(header_only: Path, name: str) -> None:
    """Load a header-only GGUF, whose weights libllama is not asked for: it goes through metadata and tensors as it does
    with the whole file. Raises CheckpointError with its words."""
    try:
        with LlamaClient(header_only, weights=False):
            pass
    except RunnerError as error:
        words = error.message.partition("error loading model: ")[2] or error.message
        raise CheckpointError(
            f"libllama cannot load the file that llama.cpp's converter would write of {name}: {words}",
            "Check that config.json belongs to these weights. If it does, the converter does not know this form of the "
            "model: use the checkpoint as it was published on the Hub.",
        ) from None
