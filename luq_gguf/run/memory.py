"""Whether this machine has the memory that a pass of the reference model takes."""

from __future__ import annotations

from luq_gguf.core import machine
from luq_gguf.core.errors import MemoryLimitError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.units import format_size
from luq_gguf.hf import footprint
from luq_gguf.hf.checkpoint import Checkpoint


def check_memory(
    checkpoint: Checkpoint,
    dtype: str,
    reporter: Reporter = Reporter(),
    *,
    copies: int = 1,
    left: machine.Memory | None = None,
) -> None:
    """Raise MemoryLimitError where so many passes on the CPU, with weights in `dtype`, must run out of memory, and tell
    the reporter where they may. `left` is the memory there is, by default for this process."""
    from luq_gguf.hf import model as hf_model

    left, need = left or machine.memory(), footprint.of_pass(checkpoint, dtype)
    if copies * need.usual <= left.available:
        return
    if copies * need.least > left.available + left.swap:  # headers also have what the model leaves out
        n_used = sum(parameter.numel() for parameter in hf_model.meta_model(checkpoint).parameters())
        need = footprint.of_pass(checkpoint, dtype, n_used)
    size = format_size
    who = f"{copies} copies of the reference model need" if copies > 1 else "The reference model needs"
    why = ", since this CPU has no bfloat16 units" if dtype == "float32" else ""
    conversion = f" (weights are converted to {dtype}{why})" if need.converted else ""
    where = f"the limit in {left.limit} leaves" if left.limit else "this machine has"
    sentence = f"{who} about {size(copies * need.usual)} of memory{conversion}; {where} {size(left.available)}"
    if copies * need.least <= left.available + left.swap:
        reporter.info(f"{sentence}, so the pass may swap or be killed")
        return
    here = "Raise that limit" if left.limit else "Close other programs, add swap"
    raise MemoryLimitError(
        f"{sentence}.",
        f"{'Start fewer processes' if copies > 1 else here}, or run luq-gguf profile on a machine with more memory, a "
        "GPU or bfloat16 units, and plan and quantize here: those two do not need the reference model.",
    )
