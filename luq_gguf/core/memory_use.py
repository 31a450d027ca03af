"""Frozen values of what a GGUF file needs of memory when llama.cpp runs it, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from luq_gguf.core.json_value import JsonValue


@dataclass(frozen=True)
class ContextShape(JsonValue):
    """What decides the size of KV cache and compute buffers: the context in tokens, the types of the KV cache, and, as
    llama-server has them by default, tokens of a logical and of a physical batch, the slots that share the context, and
    after how many tokens of a batch logits are kept (0: after all, as llama-mtmd-cli does)."""

    n_ctx: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512
    n_slots: int = 4
    n_outputs: int = 4


@dataclass(frozen=True)
class ImageLimits(JsonValue):
    """How many tokens an image may have: `most` of what the projector takes, `reserved` of what libmtmd reserves its
    compute buffer for. None where a projector of one fixed size does not say."""

    most: int | None
    reserved: int | None


@dataclass(frozen=True)
class MemoryUse(JsonValue):
    """What a file takes, by part: weights of the text model and of the mmproj, the KV cache (also states of recurrent
    layers), compute buffers of the text model and of an image, and what the program keeps beside them (the vocabulary,
    the tensors' descriptions). `repacked_bytes` of the weights are copied into another layout for this CPU: with the
    default --load-mode, their pages of the file also stay in memory, as long as nothing else needs it."""

    weights_bytes: int
    mmproj_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    image_bytes: int
    program_bytes: int
    repacked_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.beside_weights

    @property
    def beside_weights(self) -> int:
        """The bytes that are needed whatever types the text model's weights have."""
        buffers = self.kv_cache_bytes + self.compute_bytes + self.image_bytes
        return self.mmproj_bytes + buffers + self.program_bytes

    def to_json(self) -> dict[str, int]:
        """Return the parts and their sum."""
        return dict(vars(self)) | {"total_bytes": self.total_bytes}
