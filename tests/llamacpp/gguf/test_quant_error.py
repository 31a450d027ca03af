"""Errors of matrices weigh columns as llama-quantize does."""

import numpy as np

from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import quant_error


class Tensor:
    """A mixture's matrix: two experts of four rows, one behind the other."""

    name, data = "blk.0.ffn_up_exps.weight", np.zeros((2, 4, 3), np.float32)


def test_experts_that_no_token_reached_weigh_one():
    sums, counts = np.array([[0.0, 0.0, 0.0], [8.0, 0.0, 2.0]]), np.array([0, 2])
    matrix = ImportanceMatrix({Tensor.name: sums}, {Tensor.name: counts})
    columns = quant_error.columns_of(matrix, Tensor, np.array([0, 3, 4, 7]))
    assert columns.tolist() == [[1, 1, 1], [1, 1, 1], [4, 0, 1], [4, 0, 1]]
    weights = np.ones((4, 3), np.float32)
    assert quant_error.share_lost(weights[:2], weights[:2] * 0.9, columns[:2]) > 0
