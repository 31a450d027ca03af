"""Load the full-precision reference model, or its modules without weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luq_gguf.core import process_state
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import devices, experts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.hf.processor import load_processor, refusals


def meta_model(checkpoint: Checkpoint) -> nn.Module:
    """Return the model's modules without weights (torch's meta device), in seconds for any size.

    Raises CheckpointError where transformers cannot make a model of the config.
    """
    with process_state.TORCH, refusals(checkpoint):
        importlib.import_module("transformers.generation.utils")  # compiles, which torch 2.6 does not on this device
    with process_state.TORCH, refusals(checkpoint), torch.device("meta"):
        from transformers import AutoConfig

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
    with process_state.TORCH, _without_bars(), refusals(checkpoint), devices.memory_errors(placement):
        experts.register()
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
def _without_bars() -> Iterator[None]:
    """Hide transformers' progress bars while inside: they belong to the whole process, and so to other users of it."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, hub_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
        if not hub_shown:
            disable_progress_bars()
