"""Frozen values of what a profile was made from and how: profile.json and shard.json have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from luq_gguf.core.json_value import JsonValue, given


@dataclass(frozen=True)
class Seen(JsonValue):
    """The pictures and lines that were calibrated with: the first bytes of their hashes, sorted, in base64
    (core/overlap.py)."""

    pictures: str
    lines: str


@dataclass(frozen=True)
class NeverActive(JsonValue):
    """What the calibration says nothing about: by tensor, the number of columns whose inputs were 0 for all tokens, and
    the experts that no token reached."""

    columns: Mapping[str, int]
    experts: Mapping[str, tuple[int, ...]]

    @property
    def sentence(self) -> str | None:
        """Return a sentence that counts and names them; None where there are none."""
        columns = _listed([f"{name}: {count:,}" for name, count in self.columns.items()])
        experts = _listed([f"{name}: {', '.join(map(str, numbers))}" for name, numbers in self.experts.items()])
        n_columns, n_experts = sum(self.columns.values()), sum(map(len, self.experts.values()))
        parts = [f"matrix columns that were 0 for all tokens, {n_columns:,} ({columns})"] if n_columns else []
        parts += [f"experts' matrices that no token reached, {n_experts:,} ({experts})"] if n_experts else []
        return f"the calibration says nothing about {' and '.join(parts)}" if parts else None


def _listed(names: list[str]) -> str:
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts(JsonValue):
    """What flowed through the reference model: the sets' names, those from the Hub with their commits (`revisions`),
    the share of samples with images (`alpha`), and the sha256 of all of it.

    `n_text` and `n_tokens` are None until the pass has ended. `sources` lists both sets; the first version wrote
    neither `images`, `text` nor `revisions`. `never_active` where the pass left any columns or experts out. `seen`
    tells whether files are measured on the same data. `cut_samples` were longer than is read of a sample;
    `largest_sample_share` is the longest one's share of all tokens. `chat_date` is the date that chat templates were
    told, as 2026-01-01; earlier versions told them the day of the pass.

    `pixels` says how images were seen: as the model's "processor" makes them, or as llama.cpp does ("deployed"); of the
    first, `limited_images` were calibrated at llama.cpp's limit of `image_token_limit` tokens. Earlier versions had no
    such limit.
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
    never_active: NeverActive | UnsetType = UNSET
    seen: Seen | UnsetType = UNSET
    cut_samples: int | UnsetType = UNSET
    largest_sample_share: float | UnsetType = UNSET
    chat_date: str | UnsetType = UNSET
    pixels: str | UnsetType = UNSET
    limited_images: int | UnsetType = UNSET
    image_token_limit: int | UnsetType = UNSET

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
