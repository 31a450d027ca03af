"""BiLLM's quantizer against what can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq_gguf.method import billm
from luq_gguf.method.billm import Binarized


def error(weights, approximation):
    return float(((weights - approximation) ** 2).sum())


def matrix(seed, n_out=6, n_in=40):
    return np.random.default_rng(seed).normal(size=(n_out, n_in)).astype(np.float32)


def test_one_binary_row_has_the_mean_size_and_the_signs():
    row = np.array([[1.0, -3.0, 0.5, -0.5]], np.float32)
    assert billm.binary(row).tolist() == [[1.25, -1.25, 1.25, -1.25]]


@given(st.integers(0, 50), st.floats(-0.5, 0.5))
def test_no_other_size_of_a_binary_row_is_nearer(seed, change):
    row = matrix(seed, 1)
    best = billm.binary(row)
    assert error(row, best) <= error(row, best * (1 + change)) + 1e-6
    size = np.abs(row).mean()
    assert error(row, best) == pytest.approx(float((row**2).sum()) - row.size * float(size) ** 2, rel=1e-4)


@given(st.integers(0, 50))
def test_every_further_binary_matrix_leaves_less(seed):
    weights = matrix(seed)
    left = [error(weights, billm.residual(weights, order)) for order in (1, 2, 3)]
    assert left[0] > left[1] > left[2]


def test_two_binary_matrices_hold_four_values_exactly():
    row = np.array([[3.0, 1.0, -1.0, -3.0]], np.float32)  # 2 +- 1, with both signs
    assert billm.residual(row).tolist() == row.tolist()


def test_weights_of_two_sizes_are_split_between_these():
    weights = np.array([[0.1, -0.1, 0.1, 2.0], [-2.0, 0.1, -0.1, -0.1]], np.float32)
    assert np.allclose(billm.split(weights), weights)


def test_the_break_point_of_a_normal_distribution_is_the_best_of_those_tried():
    """For a half-normal distribution two sizes leave 0.1175 of the variance where one leaves 1 - 2 / pi: the two-bit
    Lloyd-Max quantizer (Max, 1960)."""
    weights = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    assert error(weights, billm.binary(weights)) / weights.size == pytest.approx(1 - 2 / np.pi, rel=0.01)
    assert error(weights, billm.split(weights)) / weights.size == pytest.approx(0.1175, rel=0.02)


def test_columns_that_are_large_are_salient():
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (8, 32)).astype(np.float32)
    weights[:, [3, 20]] = np.random.default_rng(2).normal(0, 20, (8, 2))
    assert set(billm.salient_columns(weights, np.ones(32))) == {3, 20}


def test_no_column_is_salient_where_one_bit_holds_all():
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (8, 32)).astype(np.float32)
    assert len(billm.salient_columns(weights, np.ones(32))) == 0
    assert Binarized(weights, 0).bits == 1.0


def test_what_following_columns_make_up_for_is_less_error_of_the_output():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(16, 384)).astype(np.float32)
    inputs = rng.normal(size=(2000, 24)) @ rng.normal(size=(24, 384)) + 0.1 * rng.normal(size=(2000, 384))
    together = billm.quantize(weights, inputs.T @ inputs)
    apart = billm.quantize(weights, np.eye(384))
    lost = [float((((weights - made.weights) @ inputs.T) ** 2).sum()) for made in (together, apart)]
    assert lost[0] < 0.5 * lost[1]
    assert 1.0 <= together.bits <= 1.0 + billm.MOST_SALIENT / billm.BLOCK


def test_columns_without_inputs_are_zero():
    hessian = np.eye(130)
    hessian[[5, 129], [5, 129]] = 0
    assert not billm.quantize(matrix(0, 4, 130), hessian).weights[:, [5, 129]].any()
