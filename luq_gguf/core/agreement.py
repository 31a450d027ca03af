"""Frozen values of what `verify --against` measured: how far llama.cpp's predictions are from transformers'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Positions:
    """Predictions of both after the same text tokens: at `n` positions the mean KL divergence from transformers', in
    nats, and the share at which the most probable token is the same."""

    n: int
    kld: float
    same_top: float

    @classmethod
    def pooled(cls, parts: Sequence[Positions]) -> Positions:
        """Return the means over all positions of several samples."""
        n = sum(part.n for part in parts)
        kld = sum(part.n * part.kld for part in parts) / max(n, 1)
        same_top = sum(part.n * part.same_top for part in parts) / max(n, 1)
        return cls(n, kld, same_top)

    def __str__(self) -> str:
        return f"mean KLD {self.kld:.2g}, same top token at {self.same_top:.1%} of {self.n} positions"

    def to_json(self) -> dict[str, Any]:
        return {"positions": self.n, "kld": self.kld if math.isfinite(self.kld) else None, "same_top": self.same_top}


@dataclass(frozen=True)
class SampleAgreement:
    """One prompt: `before` are the positions before its picture, all of them where it has none, and `after` those
    behind it. `picture_tokens` are how many tokens the picture is to transformers and to llama.cpp; `differences` says
    which tokens of the prompt are not the same, empty where all are. `fitted` are the positions behind a picture that
    was resized first (`luq-gguf fit`), None where that would change nothing or was not measured."""

    picture: str | None
    before: Positions
    after: Positions | None
    picture_tokens: tuple[int, int] | None
    differences: str
    fitted: Positions | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "picture": self.picture,
            "before": self.before.to_json(),
            "after": self.after and self.after.to_json(),
            "fitted": self.fitted and self.fitted.to_json(),
            "picture_tokens": self.picture_tokens
            and dict(zip(("transformers", "llama_cpp"), self.picture_tokens, strict=True)),
            "token_differences": self.differences or None,
        }


@dataclass(frozen=True)
class Agreement:
    """A file and its reference model in transformers, computed in `dtype`, on the same tokens. `is_16_bit`: nothing of
    the difference comes from quantization. `source` says where the samples are from."""

    file: str
    is_16_bit: bool
    checkpoint: str
    dtype: str
    source: str
    samples: tuple[SampleAgreement, ...]

    @property
    def before(self) -> Positions:
        """Return all positions before pictures; of a model that reads text only, all there are."""
        return Positions.pooled([sample.before for sample in self.samples])

    @property
    def after(self) -> Positions | None:
        """Return all positions behind pictures; None where no sample has one."""
        parts = [sample.after for sample in self.samples if sample.after]
        return Positions.pooled(parts) if parts else None

    @property
    def fitted(self) -> Positions | None:
        """Return all positions behind pictures once those that need it are fitted; None where none does."""
        if not any(sample.fitted for sample in self.samples):
            return None
        return Positions.pooled([part for sample in self.samples if (part := sample.fitted or sample.after)])

    @property
    def differences(self) -> str:
        """Return which tokens of a prompt are not the same on both sides, of the first sample where some are not."""
        return next((sample.differences for sample in self.samples if sample.differences), "")

    @property
    def is_finite(self) -> bool:
        """Whether all figures are numbers."""
        return all(math.isfinite(part.kld) for part in (self.before, self.after, self.fitted) if part)

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "is_16_bit": self.is_16_bit,
            "checkpoint": self.checkpoint,
            "dtype": self.dtype,
            "source": self.source,
            "before": self.before.to_json(),
            "after": self.after and self.after.to_json(),
            "fitted": self.fitted and self.fitted.to_json(),
            "samples": [sample.to_json() for sample in self.samples],
        }
