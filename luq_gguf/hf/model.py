"""Load the full-precision reference model, or its modules without weights."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from luq_gguf.core import machine, process_state
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import devices, experts
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.devices import Placement
from luq_gguf.hf.llava import is_unused
from luq_gguf.hf.processor import load_processor, refusals

_LARGEST_F16 = 65504.0


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


def check_complete(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint has every parameter of the model that transformers makes of its config, in the config's
    shape; `model` is what `meta_model` returns.

    transformers loads the headers' shapes without their data, by its own rules for names, so what it would fill with
    random numbers is what it says is missing. Raises CheckpointError naming tensors. A quantized checkpoint, and one
    with code of its own, are left to the real loading.
    """
    if checkpoint.config.get("quantization_config") or "auto_map" in checkpoint.config:
        return
    shapes = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in checkpoint.shapes.items()
    }
    config: Any = model.config
    with refusals(checkpoint), _quiet():
        _, info = type(model).from_pretrained(  # type: ignore[attr-defined]
            None,
            config=copy.deepcopy(config),
            state_dict=shapes,
            dtype=torch.bfloat16,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if info["mismatched_keys"]:
        name, theirs, ours = min(
            (str(key), tuple(theirs), tuple(ours)) for key, theirs, ours in info["mismatched_keys"]
        )
        raise CheckpointError(
            f"{name} of {checkpoint.name} has the shape {_times(theirs)}, but its config.json says {_times(ours)}.",
            "Use the config.json that was saved with these weights.",
        )
    missing = sorted({*info["missing_keys"]} & {name for name, _ in model.named_parameters()}, key=_by_number)
    if missing := [name for name in missing if not is_unused(checkpoint, name)]:
        raise _incomplete(checkpoint, missing, sorted(info["unexpected_keys"], key=_by_number))


def _incomplete(checkpoint: Checkpoint, missing: list[str], unexpected: list[str]) -> CheckpointError:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    sentence = f"{checkpoint.name} has no weights for {missing[0]}{more}, which {checkpoint.architecture} needs."
    if unexpected:
        return CheckpointError(
            sentence,
            f"Its weights may have other names: transformers does not know {unexpected[0]}. Save the model again with "
            "save_pretrained, under the names that it was loaded with.",
        )
    return CheckpointError(sentence, "Download the checkpoint again, or save the whole model again.")


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' own report of what it did not find is a table; ours is a sentence."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_reference(checkpoint: Checkpoint, placement: Placement) -> tuple[nn.Module, Any]:
    """Return the model in eval mode and its processor (a tokenizer for text-only models), placed on `placement`.

    Raises CheckpointError where transformers refuses the checkpoint, and what `devices.memory_errors` raises.
    """
    with process_state.TORCH, _without_bars(), refusals(checkpoint), devices.memory_errors(placement):
        experts.register()
        torch.set_num_threads(min(torch.get_num_threads(), machine.cores(logical=True)))  # not aware of CPU quotas
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
    _check_values(model, checkpoint)
    with devices.memory_errors(placement):
        placed: nn.Module = (model if placement.spread else model.to(placement.device)).eval()
        if placement.dtype == torch.float32:  # weights in FP8 become 16 bits wide, whatever is asked for
            placed = placed.float()
    return placed, processor


def _check_values(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Check that all weights are numbers, and those of matrices within F16, in which llama.cpp's converter writes them.

    One look at weights that have just been read, before the pass over the calibration set. Raises CheckpointError.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.numel() or not parameter.is_floating_point():
            continue
        least, greatest = (float(value) for value in torch.aminmax(parameter.detach()))
        largest = max(-least, greatest)
        if not math.isfinite(least + greatest):
            raise CheckpointError(
                f"{name} of {checkpoint.name} has values that are not finite (NaN or infinity).",
                "The checkpoint is damaged, or was trained or merged to it: use another one.",
            )
        if parameter.ndim > 1 and largest > _LARGEST_F16:
            raise CheckpointError(
                f"{name} of {checkpoint.name} has values up to {largest:,.0f}, but the 16-bit GGUF file holds no more "
                f"than {_LARGEST_F16:,.0f}.",
                "Such values usually come from a merge or a training run that went wrong: use another checkpoint.",
            )


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
