"""Frozen values of what a profile was made from and how: profile.json and shard.json have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from luq_gguf.core.json_value import JsonValue, given


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts(JsonValue):
    """What flowed through the reference model: the sets' names, those from the Hub with their commits (`revisions`),
    the share of samples with images (`alpha`), and the sha256 of all of it.

    `n_text` and `n_tokens` are None until the pass has ended. `sources` lists both sets; the first version wrote
    neither `images`, `text` nor `revisions`. `chat_date` is the date that chat templates were told, as 2026-01-01;
    earlier versions told them the day of the pass.
    """

    sources: tuple[str, ...]
    images: str | UnsetType | None = UNSET
    text: str | UnsetType | None = UNSET
    revisions: Mapping[str, str] | UnsetType = UNSET
    alpha: float
    n_multimodal: int
    n_text: int | None
    n_tokens: int | None
    seed: int
    sha256: str
    skipped_images: tuple[str, ...]
    chat_date: str | UnsetType = UNSET

    @property
    def sets(self) -> tuple[str | None, str | None]:
        """The set of images and that of text."""
        images, text, *_ = [*self.sources, None, None]
        return images if self.images is UNSET else self.images, text if self.text is UNSET else self.text

    @property
    def commits(self) -> Mapping[str, str]:
        """The commits of the sets from the Hub."""
        return given(self.revisions) or {}


@dataclass(frozen=True, kw_only=True)
class EstimatorFacts(JsonValue):
    """How entropies were estimated: with `k` clusters and each of these K-means seeds, from so many kept token vectors
    of each modality, of at most `capacity`, in the type `dtype`, as torch calls it."""

    method: str
    k: int
    seeds: tuple[int, ...]
    spread: str
    token_vectors: Mapping[str, int]
    capacity: int
    dtype: str
