"""Entropies of vectors that a pass kept, however many threads compute."""

import numpy as np
import pytest

from luq_gguf.calibration import entropy_estimate
from luq_gguf.calibration.reservoir import MODALITIES, SampledVectors


class Vectors(SampledVectors):
    """Two layers of made-up vectors, half of them of each modality."""

    def __init__(self) -> None:
        super().__init__(200, seed=0)
        self.dtype = np.float32
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
