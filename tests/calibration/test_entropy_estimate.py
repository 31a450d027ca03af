"""Entropies of vectors that a pass kept, however many threads compute."""

import numpy as np
import pytest
import torch

from luq_gguf.calibration import entropy_estimate
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors


class Vectors(SampledVectors):
    """Two layers of made-up vectors, half of them of each modality."""

    def __init__(self) -> None:
        super().__init__(200, seed=0)
        self.dtype = torch.float32
        for number, name in enumerate(MODALITIES):
            self.keys[name][:] = np.random.default_rng(number).random(200)
            self.samples[name][:] = np.arange(200) % 7

    def _read(self, name, layer, slots):
        rng = np.random.default_rng([MODALITIES.index(name), layer])
        return rng.normal(size=(200, 8)).astype(np.float32)[slots]


@pytest.mark.parametrize("n_threads", [2, 5])
def test_figures_are_the_same_however_many_threads_compute(tmp_path, monkeypatch, n_threads):
    def histograms(name, count):
        monkeypatch.setattr(entropy_estimate.machine, "cores", lambda logical: count)
        monkeypatch.setattr(entropy_estimate.torch, "get_num_threads", lambda: count)
        (tmp_path / name).mkdir()
        return entropy_estimate.entropies(Vectors(), 2, [0, 1], tmp_path / name, "key", lambda done, total: None)

    layers, rankings, arrays = histograms("alone", 1)
    same_layers, same_rankings, same_arrays = histograms("together", n_threads)
    assert (same_layers, same_rankings) == (layers, rankings)
    assert arrays.keys() == same_arrays.keys()
    assert {"all.0", "text.1", "multimodal.0", "half-a.0", "k-50.1", "tokens-half.0"} <= arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, same_arrays[name]), name


def test_tokens_of_one_modality_are_clustered_once(tmp_path, monkeypatch):
    vectors = Vectors()
    vectors.keys["multimodal"][:] = np.inf
    clustered = []
    cluster = entropy_estimate.kmeans.cluster_histograms

    def counted(vectors, runs, **options):
        clustered.append(len(runs))
        return cluster(vectors, runs, **options)

    monkeypatch.setattr(entropy_estimate.kmeans, "cluster_histograms", counted)
    layers, _, arrays = entropy_estimate.entropies(vectors, 1, [0, 1], tmp_path, "key", lambda done, total: None)
    assert np.array_equal(arrays["text.0"], arrays["all.0"])
    assert layers[0].by_modality == {"multimodal": None, "text": layers[0].bits}
    assert clustered[0] == 4  # two seeds, K = 50 and K = 200
    assert sum(clustered) == 4 + len(arrays.keys() - {"all.0", "text.0", "k-50.0", "k-200.0"})
