import os
import subprocess
import sys

import numpy as np
import pytest

from luq_gguf.method.entropy import cluster_histogram, histogram_entropy, mean_and_spread


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([7] * 64, 6.0), ([5, 0, 0], 0.0), ([2, 1, 1], 1.5), ([3, 3], 1.0)],
    ids=["uniform", "one cluster", "halves and quarters", "coin"],
)
def test_entropy_of_known_distributions(counts, bits):
    assert histogram_entropy(np.array(counts)) == pytest.approx(bits)


def test_an_empty_histogram_has_no_entropy():
    with pytest.raises(ValueError, match="empty"):
        histogram_entropy(np.zeros(3))


def test_separated_groups_of_tokens_are_found_as_clusters():
    rng = np.random.default_rng(0)
    centres = 100 * np.eye(4, 16)
    sizes = [400, 200, 100, 100]
    vectors = np.concatenate([c + rng.normal(size=(n, 16)) for c, n in zip(centres, sizes, strict=True)])
    counts = cluster_histogram(vectors.astype(np.float32), 4, seed=1)
    assert sorted(counts) == sorted(sizes)
    assert histogram_entropy(counts) == pytest.approx(1.75)


def test_fewer_tokens_than_clusters_are_refused():
    with pytest.raises(ValueError, match="3 token vectors"):
        cluster_histogram(np.zeros((3, 2), dtype=np.float32), 4, seed=0)


def test_the_same_seed_gives_the_same_histogram():
    vectors = np.random.default_rng(3).normal(size=(500, 8)).astype(np.float32)
    first, second = (cluster_histogram(vectors.copy(), 20, seed=7) for _ in range(2))
    assert (first == second).all()


def test_mean_and_spread():
    assert mean_and_spread(np.array([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))
    assert mean_and_spread(np.array([1.5])) == (1.5, 0.0)


def test_k_means_starts_no_threads_that_would_wait_in_a_busy_loop():
    """In a process of its own, as OpenMP reads how many threads it may start only once."""
    program = (
        "import numpy as np, psutil\n"
        "from luq_gguf.method.entropy import cluster_histogram\n"
        "vectors = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)\n"
        "vectors @ vectors.T\n"
        "before = psutil.Process().num_threads()\n"
        "cluster_histogram(vectors, 50, seed=0)\n"
        "print(psutil.Process().num_threads() - before)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_THREAD_LIMIT"}
    environment["OMP_NUM_THREADS"] = "4"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "0\n"
