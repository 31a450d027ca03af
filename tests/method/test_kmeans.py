"""K-means of several runs at once finds what scikit-learn's finds one by one."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from luq_gguf.method.entropy import histogram_entropy
from luq_gguf.method.kmeans import Run, _cluster, cluster_histograms


def groups(sizes: list[int], width: int, apart: float, seed: int = 0) -> np.ndarray:
    """So many vectors around each of some centers."""
    rng = np.random.default_rng(seed)
    centers = apart * np.eye(len(sizes), width)
    return np.concatenate(
        [c + rng.normal(size=(n, width)) for c, n in zip(centers, sizes, strict=True)], dtype=np.float32
    )


def test_separated_groups_of_tokens_are_found_as_clusters():
    sizes = [400, 200, 100, 100]
    for counts in cluster_histograms(groups(sizes, 16, 100.0), [Run(4, seed) for seed in range(3)]):
        assert sorted(counts) == sorted(sizes)
        assert histogram_entropy(counts) == pytest.approx(1.75)


def test_fewer_tokens_than_clusters_are_refused():
    with pytest.raises(ValueError, match="3 token vectors"):
        cluster_histograms(np.zeros((3, 2), dtype=np.float32), [Run(2, 0), Run(4, 0)])


def test_a_run_does_not_depend_on_threads_or_on_what_runs_beside_it():
    vectors = np.random.default_rng(3).normal(size=(1500, 24)).astype(np.float32)
    runs = [Run(20, 7), Run(20, 8), Run(50, 7)]
    together = cluster_histograms(vectors, runs, threads=3)
    assert all((one == two).all() for one, two in zip(cluster_histograms(vectors, runs), together, strict=True))
    assert (together[0] != together[1]).any()


@pytest.mark.parametrize(("width", "n"), [(16, 3000), (200, 2000)])
def test_sums_of_squares_and_entropies_are_those_of_scikit_learn(width, n):
    """On vectors whose spread falls from one direction to the next, as activations' does."""
    rng = np.random.default_rng(width)
    vectors = (rng.standard_t(4, size=(n, width)) / np.arange(1, width + 1) ** 0.7).astype(np.float32)
    seeds = range(5)
    theirs = [KMeans(100, n_init=1, random_state=seed).fit(vectors) for seed in seeds]
    with ThreadPoolExecutor(1) as pool:
        ours = _cluster(vectors, [Run(100, seed) for seed in seeds], pool)

    def inertia(labels: np.ndarray) -> float:
        return sum(float(((vectors[labels == k] - vectors[labels == k].mean(0)) ** 2).sum()) for k in set(labels))

    mine, other = np.mean([inertia(labels) for labels in ours]), np.mean([of.inertia_ for of in theirs])
    assert mine == pytest.approx(other, rel=0.01)
    bits = [histogram_entropy(np.bincount(labels)) for labels in ours]
    reference = [histogram_entropy(np.bincount(of.labels_)) for of in theirs]
    assert abs(np.mean(bits) - np.mean(reference)) <= 2 * max(np.std(bits, ddof=1), np.std(reference, ddof=1))


@pytest.mark.parametrize("values", [1, 5])
def test_clusters_stay_empty_where_fewer_vectors_differ(values):
    vectors = np.eye(values, 8, dtype=np.float32)[np.arange(300) % values] * 1000
    (counts,) = cluster_histograms(vectors, [Run(10, 0)])
    assert sorted(counts)[-values:] == [300 // values] * values
    assert counts.sum() == 300


def test_no_cluster_stays_empty_where_all_vectors_differ():
    vectors = groups([300, 300], 4, 1e3)
    (counts,) = cluster_histograms(vectors, [Run(100, 1)])
    assert counts.min() > 0


@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_every_token_has_a_cluster(n, width, k, seed):
    vectors = np.random.default_rng(n).normal(size=(max(n, k), width)).astype(np.float32)
    (counts,) = cluster_histograms(vectors, [Run(k, seed)])
    assert (counts.sum(), len(counts)) == (len(vectors), k)


def test_k_means_starts_no_threads_that_would_wait_in_a_busy_loop():
    """In a process of its own, as OpenMP reads how many threads it may start only once."""
    program = (
        "import time, numpy as np, psutil\n"
        "from luq_gguf.method.kmeans import Run, cluster_histograms\n"
        "vectors = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)\n"
        "vectors @ vectors.T\n"
        "before = psutil.Process().num_threads()\n"
        "cluster_histograms(vectors, [Run(50, 0)])\n"
        "end = time.monotonic() + 5\n"  # a thread that has been joined is the system's for a moment more
        "while psutil.Process().num_threads() > before and time.monotonic() < end:\n"
        "    time.sleep(0.01)\n"
        "print(psutil.Process().num_threads() - before)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_THREAD_LIMIT"}
    environment["OMP_NUM_THREADS"] = "4"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "0\n"
