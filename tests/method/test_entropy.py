import numpy as np
import pytest

from luq_gguf.method.entropy import histogram_entropy, mean_and_spread


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


def test_mean_and_spread():
    assert mean_and_spread(np.array([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))
    assert mean_and_spread(np.array([1.5])) == (1.5, 0.0)
