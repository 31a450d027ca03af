"""A file that is measured, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gpu import Offload

HOW = 2  # in what way prompts and pictures are measured: what was kept of other numbers is not read
TOP = 1024  # tokens kept of a position; smaller vocabularies are kept whole


@dataclass(frozen=True)
class EvalTarget:
    """A file and how it is run. `mmproj` is only needed for images; without `answers`, a file that is compared with a
    reference does not generate answers of its own, which takes one token at a time. `image_tokens` are libmtmd's
    --image-min-tokens and --image-max-tokens, None for its own limits. `gpu` says how many layers run on one. `made_of`
    is a key of all that a file was made of, which stands for its contents: it is not read for their hash then."""

    model: Path
    mmproj: Path | None = None
    threads: int | None = None
    n_ctx: int = 4096
    n_batch: int = 512
    max_tokens: int = 32
    top: int = TOP
    answers: bool = True
    image_tokens: tuple[int | None, int | None] = (None, None)
    gpu: Offload | None = None
    made_of: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the model's contents. All of a file is read for it, as it is to be measured."""
        return shards.sha256(self.model)

    def key(self) -> str:
        """Return a hash that changes with the files and with what is asked of them, but not with settings of speed, nor
        with the context: what does not fit in it is refused before it is measured."""
        vision = content_of(self.mmproj) if self.mmproj else None
        contents = self.made_of or self.sha256
        return hash_of(
            HOW, tools.identity(), contents, vision, self.max_tokens, self.top, self.answers, *self.circumstances
        )

    @property
    def circumstances(self) -> tuple[object, ...]:
        """What figures depend on beside files and questions, in keys: the token limits of pictures and the GPU. Empty
        where these are libmtmd's own and the CPU, as in keys of old."""
        limits = () if self.image_tokens == (None, None) else (self.image_tokens,)
        return (*limits, *([self.gpu.key] if self.gpu else []))
