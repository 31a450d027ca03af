import numpy as np
import pytest

from luq_gguf.divergence import kl_divergence, same_top


def test_known_values():
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert kl_divergence(p, q) == pytest.approx([expected, 0.0])
    assert same_top(p, q).tolist() == [False, True]


def test_rounding_never_makes_it_negative():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 1000)) * 4
    p = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    assert (kl_divergence(p, np.nextafter(p, np.float32(0))) >= 0).all()


def test_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match="not of the same positions"):
        kl_divergence(np.zeros((2, 3)), np.zeros((2, 4)))
