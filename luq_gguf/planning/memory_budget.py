"""Turns a budget of memory into one of the text model's file: llama.cpp tells what everything else takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.memory_use import ContextShape, MemoryUse
from luq_gguf.core.types import Budget, ModelTensors
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp.runtime import memory
from luq_gguf.method import two_type_plan
from luq_gguf.quantization.stage import make_mmproj
from luq_gguf.run.session import Session

# What counts beside the file, whose header stands for what the program keeps of it: that is measured, and differs by a
# little from run to run, which a plan must not.
_PARTS = ("mmproj_bytes", "kv_cache_bytes", "compute_bytes", "image_bytes")
SMALLER = "q8_0"  # the type of the KV cache that is advised where memory is short


@dataclass(frozen=True)
class MemoryRoom:
    """A budget of memory, and what a context takes of it: with the KV cache that was asked for, and with a smaller one
    (None where llama.cpp cannot make that)."""

    memory_bytes: int
    context: ContextShape
    use: MemoryUse
    with_smaller_cache: MemoryUse | None

    @property
    def n_bytes(self) -> int:
        """What is left for the text model's file."""
        return self.memory_bytes - _counted(self.use)

    def budget(self, asked: Budget) -> Budget:
        """Return the same budget with the size of the text model's file in place of the memory."""
        return replace(asked, memory_bytes=None, n_bytes=self.n_bytes)

    def content(self) -> dict[str, object]:
        """Return what plan.json says of it beside the file's size."""
        parts = {name: getattr(self.use, name) for name in _PARTS}
        return {"memory_bytes": self.memory_bytes, "context": self.context.to_json(), "memory": parts}

    def check(self, tensors: ModelTensors) -> None:
        """Raise BudgetError, with what would fit, where not even the file with all layers low does."""
        free, n_layers = two_type_plan.may_be_low(tensors, range(tensors.n_layers)), tensors.n_layers
        smallest = two_type_plan.file_bytes(tensors, free)
        if self.n_bytes < smallest:
            layers = f"all {n_layers} layers" if len(free) == n_layers else f"{len(free)} of {n_layers} layers"
            what = f"with {layers} in {tensors.low}{tensors.rules.sentence_part} the text model takes"
            raise self.refusal(smallest, what)

    def refusal(self, smallest: int, what: str) -> BudgetError:
        """Return the error where the smallest file, of which `what` says which it is, is too large."""
        use, n_ctx = self.use, self.context.n_ctx
        parts = [f"{what} {format_size(smallest)}"]
        parts += [f"the mmproj {format_size(use.mmproj_bytes)}"] if use.mmproj_bytes else []
        parts.append(f"the KV cache of {n_ctx} tokens {format_size(use.kv_cache_bytes)}")
        buffers, needed = use.compute_bytes + use.image_bytes, smallest + _counted(use)
        hint = f"Ask for --target-memory {_option(needed)} or more, or a smaller --ctx"
        smaller = self.with_smaller_cache
        if smaller and _counted(smaller) < _counted(use):
            enough = _option(smallest + _counted(smaller))
            hint += f"; with -ctk {SMALLER} -ctv {SMALLER}, {enough} is enough"
        return BudgetError(
            f"No file fits in {format_size(self.memory_bytes)} of memory: {', '.join(parts)}, and buffers "
            f"{format_size(buffers)}, which is {format_size(needed, up=True)} together.",
            f"{hint}.",
        )


def measure(session: Session, memory_bytes: int, context: ContextShape) -> MemoryRoom:
    """Ask llama.cpp what a context of the model takes, by the header-only GGUF and the mmproj, which is written for
    that. Raises BudgetError where there cannot be such a KV cache."""
    vision, spec = make_mmproj(session), session.spec
    smaller = replace(context, type_k=SMALLER, type_v=SMALLER)
    use, other = memory.report(spec.source.path, vision, [context, smaller]).uses
    if use is None:
        raise BudgetError(
            f"llama.cpp cannot make a KV cache of {context.type_k} and {context.type_v} for {spec.checkpoint.name}.",
            "Choose other types with -ctk and -ctv.",
        )
    return MemoryRoom(memory_bytes, context, use, other)


def _counted(use: MemoryUse) -> int:
    return sum(getattr(use, name) for name in _PARTS)


def _option(n_bytes: int) -> str:
    return format_size(n_bytes, up=True).replace(" ", "")
