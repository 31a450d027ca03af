"""A bounded uniform sample of token vectors of every layer, kept on disk.

Each token gets a random key from the seed and its sample's number; the tokens with the smallest keys are kept. So the
choice depends neither on batching nor on interruptions, samples of several runs can be merged, and the smallest keys
of two reservoirs together are a uniform sample of both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MODALITIES = ("multimodal", "text")


class TokenSample:
    """Which tokens are kept, by slot: `keys[modality]` float64 [capacity] (inf: free), `samples[modality]` int.

    `seen` has every batch so far: whether it was multimodal, its samples' numbers and how many valid tokens each has.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self._seed = capacity, seed
        self.keys = {name: np.full(capacity, np.inf) for name in MODALITIES}
        self.samples = {name: np.full(capacity, -1) for name in MODALITIES}  # which sample a slot's token is of
        self.seen: list[tuple[bool, tuple[int, ...], tuple[int, ...]]] = []

    def choose(self, ids: tuple[int, ...], lengths: list[int], *, multimodal: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return which of a batch's valid tokens (numbered through) are kept, and in which slots: two int arrays [n].

        It depends only on the seed and on all batches so far: repeating them gives the same slots.
        """
        name = MODALITIES[0 if multimodal else 1]
        self.seen.append((multimodal, ids, tuple(lengths)))
        drawn = [np.random.default_rng([self._seed, i]).random(n) for i, n in zip(ids, lengths, strict=True)]
        fresh = np.concatenate(drawn) if drawn else np.empty(0)
        keys = self.keys[name]
        both = np.concatenate([keys, fresh])
        keep = np.argsort(both, kind="stable")[: self.capacity]
        tokens = np.sort(keep[keep >= self.capacity]) - self.capacity
        stays = np.zeros(self.capacity, dtype=bool)
        stays[keep[keep < self.capacity]] = True
        slots = np.flatnonzero(~stays)[: len(tokens)]
        keys[slots] = fresh[tokens]
        self.samples[name][slots] = np.repeat(ids, lengths)[tokens]
        return tokens, slots

    def count(self, name: str) -> int:
        """Return the number of tokens kept of a modality."""
        return int(np.isfinite(self.keys[name]).sum())

    def samples_of_all(self) -> np.ndarray:
        """Return the sample number of each token of the group "all", int [n], in the order of its vectors."""
        slots = self._slots_of_all()
        return np.concatenate(
            [self.samples[name][modality_slots] for name, modality_slots in zip(MODALITIES, slots, strict=True)]
        )

    def _slots_of_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots of either modality that hold the smallest keys of both together."""
        both = np.concatenate([self.keys[name] for name in MODALITIES])
        best = np.argsort(both, kind="stable")[: min(self.capacity, int(np.isfinite(both).sum()))]
        return np.sort(best[best < self.capacity]), np.sort(best[best >= self.capacity]) - self.capacity


class SampledVectors(TokenSample, ABC):
    """Kept tokens whose vectors can be read, wherever they are; `dtype` is what they were computed in."""

    dtype: torch.dtype

    def vectors(self, group: str, layer: int) -> np.ndarray:
        """Return float32 [n, width] of one layer, for a modality or for "all": the smallest keys of both together."""
        if group != "all":
            return self._read(group, layer, np.flatnonzero(np.isfinite(self.keys[group])))
        first, second = self._slots_of_all()
        return np.concatenate([self._read(MODALITIES[0], layer, first), self._read(MODALITIES[1], layer, second)])

    @abstractmethod
    def _read(self, name: str, layer: int, slots: np.ndarray) -> np.ndarray:
        """float32 [n, width] of some slots of a modality."""


class Reservoir(SampledVectors):
    """Room for `capacity` tokens per modality, over `n_layers` layers of `width` numbers.

    Files reservoir-<modality>.bin in `folder` hold vectors in the model's own 16 or 32 bits.
    """

    def __init__(self, folder: Path, capacity: int, n_layers: int, width: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__(capacity, seed)
        self.n_layers, self.width = n_layers, width
        self.dtype = dtype if dtype == torch.bfloat16 else torch.float32
        self._itemsize = 2 if self.dtype == torch.bfloat16 else 4
        self._paths = {name: folder / f"reservoir-{name}.bin" for name in MODALITIES}
        self._files = {
            name: path.open("r+b" if path.exists() else "w+b", buffering=0) for name, path in self._paths.items()
        }

    def write(self, layer: int, slots: np.ndarray, vectors: Tensor, *, multimodal: bool) -> None:
        """Put vectors [n, width] of one layer into their slots; neighbouring slots in one write."""
        file = self._files[MODALITIES[0 if multimodal else 1]]
        data = vectors.to(self.dtype).contiguous().view(torch.uint8).numpy().reshape(len(slots), -1)
        for run in np.split(np.arange(len(slots)), np.flatnonzero(np.diff(slots) != 1) + 1):
            file.seek((layer * self.capacity + int(slots[run[0]])) * self.width * self._itemsize)
            file.write(data[run].tobytes())

    def stored_vectors(self, name: str, layer: int) -> Tensor:
        """Return vectors [n, width] of all kept tokens of a modality, as stored, in the order of their slots."""
        return self._stored(name, layer, np.flatnonzero(np.isfinite(self.keys[name])))

    def _read(self, name: str, layer: int, slots: np.ndarray) -> np.ndarray:
        return self._stored(name, layer, slots).float().numpy()

    def _stored(self, name: str, layer: int, slots: np.ndarray) -> Tensor:
        if not len(slots):
            return torch.empty(0, self.width, dtype=self.dtype)
        size = self.capacity * self.width * self._itemsize
        file = self._files[name]
        file.seek(layer * size)
        raw = torch.frombuffer(bytearray(file.read(size)), dtype=torch.uint8)
        rows = raw[: len(raw) // (self.width * self._itemsize) * self.width * self._itemsize]
        vectors = rows.view(self.dtype).reshape(-1, self.width)
        return vectors[torch.from_numpy(slots)]

    def flush(self) -> None:
        import os

        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Close and delete the files."""
        self.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)
