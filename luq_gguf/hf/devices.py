"""Choose where the reference model is computed. Torch may be built for an accelerator that is not there, so one is used
only when a product on it is correct and its memory is large enough."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from luq_gguf.core import process_state
from luq_gguf.core.errors import DeviceError, MemoryLimitError
from luq_gguf.core.units import format_size
from luq_gguf.hf.checkpoint import Checkpoint
from luq_gguf.hf.footprint import largest_layer, n_parameters

_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_FEWER = ("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS")  # may start fewer threads than were asked for
_PROBE = 64  # rows and columns of a product whose sum is known


@dataclass(frozen=True)
class Placement:
    """The device of the reference model; `spread` where accelerate has to lay its layers over several GPUs. `exact`
    weights are in float32 whatever the device is fast in."""

    device: torch.device
    spread: bool = False
    exact: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights: bfloat16 where the device computes fast in it, else float32."""
        return torch.float32 if self.exact or not has_fast_bfloat16(self.device) else torch.bfloat16


@dataclass(frozen=True)
class Facts:
    """What this process sees of an accelerator.

    `device` as torch spells it; `built_for` the kind that this torch was built for, None for the CPU alone; `hidden`
    the environment variable that hides all devices; `count` the devices; `fault` why a product on it did not come out
    right, in torch's words, empty where it did; `free` bytes, None where torch cannot tell.
    """

    device: str
    built_for: str | None
    available: bool = False
    hidden: str = ""
    count: int = 0
    fault: str = ""
    free: int | None = None


@dataclass(frozen=True)
class Shortcoming:
    """Why an accelerator cannot be used, and what would help."""

    reason: str
    remedy: str


def choose_device(
    device: str, checkpoint: Checkpoint, info: Callable[[str], None] = lambda sentence: None
) -> Placement:
    """Return where the reference model runs. "auto" is the accelerator if it works and has room, else the CPU, and then
    `info` is given the reason; under a launcher each process has its own accelerator. Any other device is used or
    refused. Raises DeviceError."""
    if device == "auto":
        facts = _look_for_auto()
        if facts is None:
            return _on_cpu(info)
        alone = bool(os.environ.get("LOCAL_RANK"))
        placement, sentence = pick(facts, 2 * n_parameters(checkpoint), 2 * largest_layer(checkpoint), alone=alone)
        if sentence:
            info(sentence)
        return _on_cpu(info) if placement.device.type == "cpu" else placement
    try:
        requested = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"--device {device}: torch does not know this device.", "Try auto, cpu or cuda.") from None
    if requested.type == "cpu":
        return _on_cpu(info)
    problem = shortcoming(look(requested))
    if problem:
        raise DeviceError(
            f"--device {device} cannot be used: {problem.reason}.", f"{problem.remedy}, or use --device cpu."
        )
    return Placement(requested)


def _on_cpu(info: Callable[[str], None]) -> Placement:
    """Return the CPU, with as many threads of torch as OpenMP is sure to give it."""
    threads, sentence = openmp_threads(torch.get_num_threads(), os.environ)
    if sentence:
        torch.set_num_threads(threads)
        info(sentence)
    return Placement(torch.device("cpu"))


def openmp_threads(threads: int, environment: Mapping[str, str]) -> tuple[int, str | None]:
    """Return how many of torch's threads OpenMP is sure to start, and a sentence where these are fewer.

    Torch's bfloat16 products divide their rows among the threads that were asked for. Where OpenMP starts fewer, the
    rest of the output is memory that nobody has written: not finite or, worse, finite.
    """
    limits = {name: environment.get(name, "").strip().lower() for name in _FEWER}
    sure = threads
    if limits["OMP_THREAD_LIMIT"].isdecimal():
        sure = min(sure, max(1, int(limits["OMP_THREAD_LIMIT"])))
    if limits["OMP_DYNAMIC"] in ("true", "1") or limits["OMP_MAX_ACTIVE_LEVELS"] == "0":
        sure = 1
    if sure == threads:
        return threads, None
    names = " and ".join(f"{name}={environment[name]}" for name in _FEWER if limits[name])
    noun = "thread" if sure == 1 else "threads"
    return sure, f"the reference model runs on {sure} {noun} instead of {threads}: {names} is set in the environment"


def pick(facts: Facts, weights: int, layer: int, *, alone: bool) -> tuple[Placement, str | None]:
    """Return what "auto" means, and a sentence where that is the CPU although torch was built for an accelerator.

    `weights` and `layer` are bytes of the whole model and of its largest decoder layer; `alone` whether a launcher
    gave this process one device. A model is spread where there are several GPUs and the first has no room for it.
    """
    spread = not alone and facts.count > 1 and facts.device == "cuda" and facts.free is not None
    spread = spread and needs_several(weights, facts.free or 0)
    problem = shortcoming(facts)
    if not problem and facts.free is not None and facts.free < (layer if spread else weights + layer):
        what = f"one layer takes {format_size(layer)}" if spread else f"the model takes {format_size(weights + layer)}"
        problem = Shortcoming(f"{format_size(facts.free)} of its memory is free, but {what}", "")
    if not problem:
        return Placement(torch.device(facts.device), spread), None
    return Placement(
        torch.device("cpu")
    ), f"the reference model runs on the CPU, not on {facts.device}: {problem.reason}"


def shortcoming(facts: Facts) -> Shortcoming | None:
    """Return why nothing can be computed on an accelerator; None where a product on it was correct."""
    kind = facts.device.partition(":")[0]
    if facts.built_for != kind:
        what = facts.built_for or "the CPU only"
        return Shortcoming(f"this torch is built for {what}", f"Install a build of torch for {kind}")
    if not facts.available and facts.hidden:
        return Shortcoming(f"{facts.hidden} hides every device", f"Unset {facts.hidden}")
    if not facts.available:
        return Shortcoming(_first_sentence(facts.fault) or "torch does not find one", "Install or update its driver")
    if facts.fault:
        reason = f"a test computation on it failed ({_first_sentence(facts.fault)})"
        return Shortcoming(reason, "Free some of its memory, or install a build of torch that supports it")
    return None


def needs_several(n_bytes: int, free: int) -> bool:
    """Return whether weights of so many bytes leave less than a sixth of the free bytes for activations."""
    return 6 * n_bytes > 5 * free


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 matrix products are faster than float32 ones here; on older CPUs they are 100 times
    slower."""
    if device.type != "cpu":
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


@contextmanager
def memory_errors(placement: Placement) -> Iterator[None]:
    """Turn what torch raises when memory is refused into a MemoryLimitError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(
            f"{placement.device} has too little free memory: {_first_sentence(str(error))}.",
            "Free some of its memory, or use --device cpu; what has been done so far is kept.",
        ) from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryLimitError(
            "The system did not give the reference model any more memory.",
            "Close other programs or raise the memory limit (ulimit -v); what has been done so far is kept.",
        ) from None


def look(device: torch.device) -> Facts:
    """Ask torch about a device, and compute on it. Torch's warnings are not shown: what it raises says the same, and
    every time."""
    accelerator = torch.accelerator.current_accelerator()
    built_for = accelerator.type if accelerator else None
    if device.type != built_for:
        return Facts(str(device), built_for)
    hidden = next((name for name in _HIDING if os.environ.get(name, "0").strip() in ("", "-1")), "")
    with process_state.warnings_filtered("ignore"):
        available = torch.accelerator.is_available()
        count = torch.accelerator.device_count() if available else 0
        fault = _fault(device)
        free = _free(device) if available and not fault else None
    return Facts(str(device), built_for, available, hidden, count, fault, free)


def _look_for_auto() -> Facts | None:
    """Of the accelerator that this torch was built for, of this process's share of them; None for a CPU's build."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return None
    facts, local = look(torch.device(accelerator.type)), os.environ.get("LOCAL_RANK", "")
    return (
        look(torch.device(accelerator.type, int(local) % facts.count)) if local.isdecimal() and facts.count else facts
    )


def _fault(device: torch.device) -> str:
    """What is wrong with a bfloat16 product on the device, which the model is made of; empty where it is right."""
    try:
        ones = torch.ones(_PROBE, _PROBE, dtype=torch.bfloat16, device=device)
        total = float((ones @ ones).float().sum())
    except Exception as error:  # each backend raises what it likes
        return str(error) or type(error).__name__
    return "" if total == _PROBE**3 else f"a sum of {_PROBE**3} came out as {total:g}"


def _free(device: torch.device) -> int | None:
    with suppress(Exception):  # not every backend can tell
        if hasattr(torch.accelerator, "get_memory_info"):  # not in the oldest torch that is allowed
            return int(torch.accelerator.get_memory_info(device)[0])
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
    return None


def _first_sentence(text: str) -> str:
    """Of what torch says, whose messages go on with addresses and places in its source."""
    lines = text.strip().splitlines()
    return re.split(r"\.\s", lines[0], maxsplit=1)[0].rstrip(".") if lines else ""


def as_weights(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a processor's tensor where the weights are; one in 16 bits, as Llama 4's pictures are, in their type."""
    return value.to(weight) if value.dtype in (torch.float16, torch.bfloat16) else value.to(weight.device)
