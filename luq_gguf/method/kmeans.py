"""K-means of the same vectors for several seeds and K at once.

Lloyd's steps (Lloyd 1982) as matrix products: the centers of all runs stand side by side, so that the vectors are read
once a step. A run starts from greedy k-means++ (Arthur and Vassilvitskii 2007) on up to 4,096 of the vectors, takes its
first steps on a quarter of all, and ends as scikit-learn's does: when no label changes, or the centers hardly move.

Products are computed in pieces of so many rows, each by one thread: sums are rounded the same way on any number of
cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

_ROWS = 512  # vectors of a piece
_START = 4096  # vectors from which starts are drawn
_COARSE = 4  # the first steps take every fourth vector, where these are ten a cluster
_COARSE_STEPS = 10
_STEPS = 300
_TOLERANCE = 1e-4  # of the vectors' variance: scikit-learn's


Product = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of float32 [n, width] and [width, m]


@dataclass(frozen=True)
class Run:
    """One clustering: how many clusters, and the seed of its start."""

    k: int
    seed: int


def cluster_histograms(
    vectors: np.ndarray, runs: Sequence[Run], threads: int = 1, product: Product = np.matmul
) -> list[np.ndarray]:
    """Return tokens per cluster, int64 [k], of each run on token vectors float32 [n_tokens, width].

    `threads` is how many threads compute; the result does not depend on it. `product` computes what distances come
    from, of up to 512 vectors at once, in any of these threads. Where fewer vectors differ than there are
    clusters, some stay empty. Raises ValueError where a run has more clusters than there are vectors.
    """
    if len(vectors) < max(run.k for run in runs):
        raise ValueError(f"{len(vectors)} token vectors cannot fill {max(run.k for run in runs)} clusters")
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        labels = _cluster(vectors, runs, pool, product)
    return [np.bincount(of_run, minlength=run.k) for run, of_run in zip(runs, labels, strict=True)]


def _cluster(
    vectors: np.ndarray, runs: Sequence[Run], pool: Executor, product: Product = np.matmul
) -> list[np.ndarray]:
    """The label of every vector, for each run."""
    centered = np.ascontiguousarray(vectors - vectors.mean(axis=0, dtype=np.float64).astype(vectors.dtype))
    tolerance = _TOLERANCE * float(np.mean(centered.var(axis=0, dtype=np.float64)))
    centers = _starts(centered, runs, pool, product)
    coarse = np.ascontiguousarray(centered[::_COARSE])
    if len(coarse) >= 10 * max(run.k for run in runs):
        centers = _Lloyd(coarse, centers, pool, product).run(_COARSE_STEPS, tolerance)[1]
    return _Lloyd(centered, centers, pool, product).run(_STEPS, tolerance)[0]


def _starts(vectors: np.ndarray, runs: Sequence[Run], pool: Executor, product: Product) -> list[np.ndarray]:
    """The centers [k, width] that each run starts from."""
    rows = np.random.default_rng(len(vectors)).permutation(len(vectors))[:_START]
    sample = vectors[np.sort(rows)]
    distances = _distances(sample, pool, product)
    return [sample[start] for start in pool.map(lambda run: _start(distances, run), runs)]


def _distances(vectors: np.ndarray, pool: Executor, product: Product) -> np.ndarray:
    """Squared distances float32 [n, n] between all vectors."""
    squares = np.einsum("ij,ij->i", vectors, vectors)

    def piece(start: int) -> np.ndarray:
        rows = slice(start, start + _ROWS)
        of_rows: np.ndarray = squares[rows, None] + squares - 2 * product(vectors[rows], vectors.T)
        np.maximum(of_rows, 0, out=of_rows)
        return of_rows

    return np.concatenate(list(pool.map(piece, range(0, len(vectors), _ROWS))))


def _start(distances: np.ndarray, run: Run) -> np.ndarray:
    """Rows [k] of a start by greedy k-means++, from the squared distances between all vectors."""
    rng = np.random.default_rng([run.seed, run.k])
    picked = [int(rng.integers(len(distances)))]
    closest = distances[picked[0]]
    n_candidates = 2 + int(np.log(run.k))
    for _ in range(1, run.k):
        sums = np.cumsum(closest, dtype=np.float64)
        drawn = np.searchsorted(sums, rng.random(n_candidates) * sums[-1])
        candidates = np.minimum(drawn, len(distances) - 1)
        reduced = np.minimum(distances[candidates], closest)
        best = int(reduced.sum(axis=1, dtype=np.float64).argmin())
        picked.append(int(candidates[best]))
        closest = reduced[best]
    return np.array(picked)


class _Lloyd:
    """Lloyd's steps of several runs on the same vectors: labels, and the sums and sizes of their clusters."""

    def __init__(self, vectors: np.ndarray, centers: list[np.ndarray], pool: Executor, product: Product) -> None:
        self.vectors, self.centers, self.pool, self.product = vectors, list(centers), pool, product
        self.labels = [np.full(len(vectors), -1) for _ in centers]
        self.sums = [np.zeros_like(of_run) for of_run in centers]

    def run(self, steps: int, tolerance: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return labels and centers when each run has ended, or after so many steps."""
        moving = list(range(len(self.centers)))
        settled: list[int] = []  # their centers hardly moved: their labels are taken once more
        for _ in range(steps):
            nearest = self._nearest([*moving, *settled])
            for run, labels in zip(settled, nearest[len(moving) :], strict=True):
                self.labels[run] = labels
            moved = list(self.pool.map(self._step, moving, nearest[: len(moving)]))
            settled = [run for run, shift in zip(moving, moved, strict=True) if 0 < shift <= tolerance]
            moving = [run for run, shift in zip(moving, moved, strict=True) if shift > tolerance]
            if not moving and not settled:
                break
        return self.labels, self.centers

    def _nearest(self, runs: list[int]) -> list[np.ndarray]:
        """The nearest center of every vector, for some runs, in one product a piece."""
        stacked = np.concatenate([self.centers[run] for run in runs])
        halves = np.einsum("ij,ij->i", stacked, stacked) / 2
        ends = np.cumsum([len(self.centers[run]) for run in runs])[:-1]

        def piece(start: int) -> list[np.ndarray]:
            scores = self.product(self.vectors[start : start + _ROWS], stacked.T)
            scores -= halves
            return [of_run.argmax(axis=1) for of_run in np.split(scores, ends, axis=1)]

        pieces = self.pool.map(piece, range(0, len(self.vectors), _ROWS))
        return [np.concatenate(of_run) for of_run in zip(*pieces, strict=True)]

    def _step(self, run: int, labels: np.ndarray) -> float:
        """Move the centers of a run to the means of what is nearest to them. Returns the sum of their squared shifts; 0
        where no label changed."""
        before, k = self.labels[run], len(self.centers[run])
        counts = np.bincount(labels, minlength=k)
        if not counts.all():
            labels = self._fill(run, labels, counts)
            counts = np.bincount(labels, minlength=k)
        rows = np.flatnonzero(labels != before)
        if not len(rows):
            return 0.0
        known = rows[before[rows] >= 0]
        entries = np.concatenate([np.ones(len(rows), np.float32), np.full(len(known), -1, np.float32)])
        places = np.concatenate([labels[rows], before[known]]), np.concatenate([rows, known])
        self.sums[run] += scipy.sparse.csr_matrix((entries, places), (k, len(labels))) @ self.vectors
        self.labels[run] = labels
        centers = np.where(counts[:, None] > 0, self.sums[run] / np.maximum(counts, 1)[:, None], self.centers[run])
        centers = centers.astype(self.vectors.dtype)
        shift = float(np.sum((centers - self.centers[run]) ** 2, dtype=np.float64))
        self.centers[run] = centers
        return shift

    def _fill(self, run: int, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Labels in which every empty cluster has one of the vectors that lie farthest from their centers, where these
        lie apart from them at all."""
        away = np.einsum("ij,ij->i", *2 * [self.vectors - self.centers[run][labels]])
        nothing = 1e-6 * float(np.einsum("ij,ij->i", self.vectors, self.vectors).max())
        empty = list(np.flatnonzero(counts == 0))
        filled, left = labels.copy(), counts.copy()
        for row in np.argsort(-away, kind="stable"):
            if not empty or away[row] <= nothing:
                break
            if left[labels[row]] > 1:
                left[labels[row]] -= 1
                filled[row] = empty.pop(0)
        return filled
