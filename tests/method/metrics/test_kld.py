import numpy as np
import pytest

from luq_gguf.method.metrics.kld import keep_top, kl_divergence, kl_from_top, same_top


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
    with pytest.raises(ValueError, match="do not have the same positions"):
        kl_divergence(np.zeros((2, 3)), np.zeros((2, 4)))


def logs(*rows):
    return np.log(np.array(rows, dtype=np.float64)).astype(np.float32)


def test_all_of_the_vocabulary_gives_the_whole_divergence():
    rng = np.random.default_rng(0)
    p, q = (logs(*rng.dirichlet(np.ones(50), 20)) for _ in range(2))
    assert kl_from_top(keep_top(p, 50), q) == pytest.approx(kl_divergence(p, q), rel=1e-5, abs=1e-7)


def test_the_rest_counts_as_one_token():
    p, q = logs([0.5, 0.3, 0.15, 0.05]), logs([0.25, 0.25, 0.25, 0.25])
    top = keep_top(p, 2)
    assert top.tokens.tolist() == [[0, 1]]
    assert np.exp(top.tail) == pytest.approx(0.2)
    expected = 0.5 * np.log(2) + 0.3 * np.log(0.3 / 0.25) + 0.2 * np.log(0.2 / 0.5)
    assert kl_from_top(top, q) == pytest.approx([expected], rel=1e-5)
    assert kl_from_top(top, q)[0] < kl_divergence(p, q)[0]
    assert kl_from_top(top, p) == pytest.approx([0.0], abs=1e-6)


def test_other_positions_or_vocabularies_do_not_compare():
    top = keep_top(logs([0.5, 0.5]), 2)
    with pytest.raises(ValueError, match="same positions"):
        kl_from_top(top, logs([0.5, 0.5], [0.5, 0.5]))
    with pytest.raises(ValueError, match="same positions"):
        kl_from_top(top, logs([1.0]))
