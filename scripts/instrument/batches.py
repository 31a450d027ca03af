"""What a step of training sees: a function of the seed and the step's number alone, so that a run can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from instrument.pool import Chunk

QUESTIONS = 3  # behind a picture; where it has fewer, some come twice
PIECES = 4  # chunks that a batch is taken from: fewer reads from disk than one for every picture
_AHEAD = 6  # batches prepared while a step is computed
_SHIFT = 3  # pixels
_PICTURES, _CHANGES, _LAYERS = range(3)  # what a step's random numbers are for


class Batch(NamedTuple):
    """`pictures` uint8 [B, side, side, 3], `ids` [B, QUESTIONS, LENGTH], `sizes` [B, QUESTIONS, 2] (tokens at all and
    of the answer), `words` [B, 9] (letters to spell)."""

    pictures: Tensor
    ids: Tensor
    sizes: Tensor
    words: Tensor

    def to(self, device: torch.device) -> Batch:
        whole = (part.to(device, torch.long, non_blocking=True) for part in (self.ids, self.sizes, self.words))
        return Batch(self.pictures.to(device, non_blocking=True), *whole)


@dataclass(frozen=True)
class Batches:
    chunks: Sequence[Chunk]
    size: int
    seed: int

    def of(self, step: int) -> Batch:
        """Return the batch of a step: pictures drawn at random, with repetition, and questions of each."""
        rng = np.random.default_rng([self.seed, step, _PICTURES])
        pieces = []
        for _ in range(PIECES):
            chunk = self.chunks[int(rng.integers(len(self.chunks)))]
            rows = np.sort(rng.integers(len(chunk.pixels), size=self.size // PIECES))
            asked = (rng.random((len(rows), QUESTIONS)) * chunk.counts[rows][:, None]).astype(int)
            chosen = rows[:, None], asked
            pieces.append((chunk.pixels[rows], chunk.ids[chosen], chunk.sizes[chosen], chunk.words[rows]))
        return Batch(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*pieces, strict=True)))

    def following(self, step: int) -> Iterator[Batch]:
        """Return the batches from a step on, without end, some of them prepared ahead in a thread."""
        with ThreadPoolExecutor(1) as thread:
            ahead: deque[Future[Batch]] = deque(thread.submit(self.of, step + i) for i in range(_AHEAD))
            try:
                while True:
                    batch = ahead.popleft().result()
                    ahead.append(thread.submit(self.of, step + _AHEAD))
                    step += 1
                    yield batch
            finally:
                thread.shutdown(cancel_futures=True)


def changed(pixels: Tensor, seed: int, step: int) -> Tensor:
    """Shift normalised pixels [B, 3, side, side] by up to three, all alike, and change the brightness and contrast of
    each picture a little."""
    rng = np.random.default_rng([seed, step, _CHANGES])
    right, down = (int(value) for value in rng.integers(0, 2 * _SHIFT + 1, size=2))
    side = pixels.shape[-1]
    padded = F.pad(pixels, (_SHIFT, _SHIFT, _SHIFT, _SHIFT), mode="replicate")
    shifted = padded[:, :, down : down + side, right : right + side]
    noise = torch.from_numpy(0.1 * rng.standard_normal((2, len(pixels), 1, 1, 1), dtype=np.float32)).to(pixels.device)
    return shifted * (1 + noise[0]) + noise[1]


def kept_layers(n_layers: int, share_left_out: float, seed: int, step: int) -> Tensor:
    """Return 1 for the decoder layers that take part in a step and 0 for the others, float32 [n_layers]."""
    random = np.random.default_rng([seed, step, _LAYERS]).random(n_layers)
    return torch.from_numpy((random >= share_left_out).astype(np.float32))
