"""Renders one prompt in the preflight as calibration and evaluation will: in transformers, and in the file's own chat
template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.reporter import Reporter
from luq_gguf.hf import prompts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.llamacpp.gguf.reader import GGUFInfo
from luq_gguf.llamacpp.runtime import chat_template

if TYPE_CHECKING:
    from torch import nn

MARKER = "<__media__>"  # libmtmd's


def check(checkpoint: Checkpoint, model: nn.Module, written: GGUFInfo, reporter: Reporter) -> None:
    """Raise CheckpointError where a prompt, or a prompt with a picture, cannot be rendered by one of the two, and where
    `model`, transformers' modules without weights, would not see the picture; tell the reporter where the file will
    have another chat template than calibration takes, or none."""
    template = prompts.check(checkpoint, model)
    kept = written.metadata.get("tokenizer.chat_template")
    if template and not kept:
        reporter.info(
            f"llama.cpp's converter does not find the chat template of {checkpoint.name}, so the file will have none: "
            "save it as chat_template.jinja in the checkpoint's folder"
        )
    elif template and template != kept:
        reporter.info(
            f"{checkpoint.name} has two chat templates: transformers takes one, and llama.cpp's converter the other, "
            "since it reads tokenizer_config.json first"
        )
    try:
        for marker in (None, MARKER) if checkpoint.has_vision else (None,):
            chat_template.render(kept, prompts.QUESTION, marker)
    except ValueError as error:
        raise CheckpointError(
            f"The GGUF file of {checkpoint.name} could not be asked anything, because {error}",
            "Repair the template in the checkpoint's tokenizer_config.json or chat_template.jinja.",
        ) from None
