"""A bounded uniform sample of token vectors of every layer, kept on disk.

Each token gets a random key from the seed and its sample's number; the tokens with the smallest keys are kept. So the
choice depends neither on batching nor on interruptions, samples of several runs can be merged, and the smallest keys
of two reservoirs together are a uniform sample of both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MODALITIES = ("multimodal", "text")


class Reservoir:
    """Room for `capacity` tokens per modality, over `n_layers` layers of `width` numbers.

    Files reservoir-<modality>.bin in `folder` hold vectors in the model's own 16 or 32 bits.
    """

    def __init__(self, folder: Path, capacity: int, n_layers: int, width: int, dtype: torch.dtype, seed: int) -> None:
        self._capacity, self._n_layers, self._width, self._seed = capacity, n_layers, width, seed
        self._dtype = dtype if dtype == torch.bfloat16 else torch.float32
        self._itemsize = 2 if self._dtype == torch.bfloat16 else 4
        self._paths = {name: folder / f"reservoir-{name}.bin" for name in MODALITIES}
        self.keys = {name: np.full(capacity, np.inf) for name in MODALITIES}
        self.samples = {name: np.full(capacity, -1) for name in MODALITIES}  # which sample a slot's token is of
        self._files = {
            name: path.open("r+b" if path.exists() else "w+b", buffering=0) for name, path in self._paths.items()
        }

    def choose(self, multimodal: bool, ids: tuple[int, ...], lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Which of a batch's valid tokens (numbered through) are kept, and in which slots: two int arrays [n]."""
        name = MODALITIES[0 if multimodal else 1]
        drawn = [np.random.default_rng([self._seed, i]).random(n) for i, n in zip(ids, lengths, strict=True)]
        fresh = np.concatenate(drawn) if drawn else np.empty(0)
        keys = self.keys[name]
        both = np.concatenate([keys, fresh])
        keep = np.argsort(both, kind="stable")[: self._capacity]
        tokens = np.sort(keep[keep >= self._capacity]) - self._capacity
        kept = np.zeros(self._capacity, dtype=bool)
        kept[keep[keep < self._capacity]] = True
        slots = np.flatnonzero(~kept)[: len(tokens)]
        keys[slots] = fresh[tokens]
        self.samples[name][slots] = np.repeat(ids, lengths)[tokens]
        return tokens, slots

    def write(self, multimodal: bool, layer: int, slots: np.ndarray, vectors: Tensor) -> None:
        """Put vectors [n, width] of one layer into their slots; neighbouring slots in one write."""
        file = self._files[MODALITIES[0 if multimodal else 1]]
        data = vectors.to(self._dtype).contiguous().view(torch.uint8).numpy().reshape(len(slots), -1)
        for run in np.split(np.arange(len(slots)), np.flatnonzero(np.diff(slots) != 1) + 1):
            file.seek((layer * self._capacity + int(slots[run[0]])) * self._width * self._itemsize)
            file.write(data[run].tobytes())

    def count(self, name: str) -> int:
        """Tokens held of a modality."""
        return int(np.isfinite(self.keys[name]).sum())

    def vectors(self, group: str, layer: int) -> np.ndarray:
        """float32 [n, width] of one layer: of a modality, or "all": the smallest keys of both together."""
        if group != "all":
            return self._read(group, layer, np.flatnonzero(np.isfinite(self.keys[group])))
        first, second = self._slots_of_all()
        return np.concatenate([self._read(MODALITIES[0], layer, first), self._read(MODALITIES[1], layer, second)])

    def samples_of_all(self) -> np.ndarray:
        """The sample's number of each token of the group "all", int [n], in the order of its vectors."""
        slots = self._slots_of_all()
        return np.concatenate([self.samples[name][held] for name, held in zip(MODALITIES, slots, strict=True)])

    def _slots_of_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots of either modality that hold the smallest keys of both together."""
        both = np.concatenate([self.keys[name] for name in MODALITIES])
        best = np.argsort(both, kind="stable")[: min(self._capacity, int(np.isfinite(both).sum()))]
        return np.sort(best[best < self._capacity]), np.sort(best[best >= self._capacity]) - self._capacity

    def _read(self, name: str, layer: int, slots: np.ndarray) -> np.ndarray:
        if not len(slots):
            return np.empty((0, self._width), dtype=np.float32)
        size = self._capacity * self._width * self._itemsize
        file = self._files[name]
        file.seek(layer * size)
        raw = torch.frombuffer(bytearray(file.read(size)), dtype=torch.uint8)
        rows = raw[: len(raw) // (self._width * self._itemsize) * self._width * self._itemsize]
        whole = rows.view(self._dtype).reshape(-1, self._width)
        return whole[torch.from_numpy(slots)].float().numpy()

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
