"""Products of K-means: what they are computed in, and that torch is left as it was."""

import numpy as np
import pytest
import torch

from luq_gguf.calibration import products
from luq_gguf.hf import devices
from luq_gguf.method.entropy import histogram_entropy
from luq_gguf.method.kmeans import Run, cluster_histograms

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(not devices.has_fast_bfloat16(CPU), reason="this CPU has no bfloat16 units")


def test_vectors_in_float32_are_multiplied_in_float32():
    with products.fastest(torch.float32, CPU) as product:
        assert product is np.matmul


def test_a_cpu_without_bfloat16_units_multiplies_in_float32(monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: False)
    with products.fastest(torch.bfloat16, CPU) as product:
        assert product is np.matmul


def test_torch_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: True)
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), products.fastest(torch.bfloat16, CPU) as product:
        assert np.array_equal(product(np.eye(2, dtype=np.float32), np.ones((2, 3), np.float32)), np.ones((2, 3)))
        raise ZeroDivisionError
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before


@needs_bfloat16
def test_entropies_are_those_of_float32_within_the_spread_over_seeds():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 0.5, (60, 128))
    labels = rng.choice(60, 3000, p=rng.dirichlet(np.ones(60)))
    vectors = torch.from_numpy(centers[labels] + rng.normal(0, 1, (3000, 128))).bfloat16().float().numpy()
    runs = [Run(100, seed) for seed in range(5)]
    exact = [histogram_entropy(counts) for counts in cluster_histograms(vectors, runs)]
    with products.fastest(torch.bfloat16, CPU) as product:
        one, two = (cluster_histograms(vectors, runs, threads, product) for threads in (1, 3))
    rounded = [histogram_entropy(counts) for counts in one]
    assert all(np.array_equal(alone, shared) for alone, shared in zip(one, two, strict=True))
    assert abs(np.mean(exact) - np.mean(rounded)) <= max(np.std(exact, ddof=1), np.std(rounded, ddof=1))
