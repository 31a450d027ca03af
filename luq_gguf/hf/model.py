"""Load the full-precision reference model, or its modules without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luq_gguf.core import machine
from luq_gguf.core.errors import CheckpointError, LuqError
from luq_gguf.hf import devices, experts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.hf.processor import load_processor


def meta_model(checkpoint: Checkpoint) -> nn.Module:
    """Return the model's modules without weights (torch's meta device), in seconds for any size.

    Raises CheckpointError where transformers cannot make a model of the config.
    """
    from transformers import AutoConfig

    with _refusals(checkpoint), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code, local_files_only=True
        )
        model: nn.Module = _auto_class(checkpoint).from_config(
            config, trust_remote_code=checkpoint.trust_remote_code, dtype=torch.bfloat16
        )
    return model


def load_reference(checkpoint: Checkpoint, placement: Placement) -> tuple[nn.Module, Any]:
    """Return the model in eval mode and its processor (a tokenizer for text-only models), placed on `placement`.

    Raises CheckpointError where transformers refuses the checkpoint, and what `devices.memory_errors` raises.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    experts.register()
    torch.set_num_threads(min(torch.get_num_threads(), machine.cores(logical=True)))  # it does not know of CPU quotas
    with _refusals(checkpoint), devices.memory_errors(placement):
        model = _auto_class(checkpoint).from_pretrained(
            checkpoint.folder,
            dtype=placement.dtype,
            use_safetensors=True,
            trust_remote_code=checkpoint.trust_remote_code,
            local_files_only=True,
            experts_implementation=experts.NAME,
            **({"device_map": "auto"} if placement.spread else {}),
        )
        processor = load_processor(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    if any(parameter.is_meta for parameter in model.parameters()):  # accelerate keeps what has no room elsewhere
        raise CheckpointError(
            f"{checkpoint.name} does not fit on the accelerators of this machine.",
            "Use --device cpu, or a larger accelerator.",
        )
    with devices.memory_errors(placement):
        placed: nn.Module = (model if placement.spread else model.to(placement.device)).eval()
    return placed, processor


def _auto_class(checkpoint: Checkpoint) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if checkpoint.has_vision else AutoModelForCausalLM


@contextmanager
def _refusals(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except LuqError:
        raise
    except Exception as error:  # what transformers raises of a config or a tokenizer that somebody made up
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"transformers cannot load {checkpoint.name}: {reason}",
            "Check that the checkpoint is complete and unmodified.",
        ) from None
