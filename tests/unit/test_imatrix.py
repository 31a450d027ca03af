import numpy as np
import pytest

from luq_gguf.imatrix import mean_squares, merge
from luq_gguf.llamacpp import imatrix_file
from luq_gguf.values import ImportanceMatrix


def test_parts_add_up():
    a = ImportanceMatrix({"x": np.array([1.0, 2.0])}, {"x": 2}, 1)
    b = ImportanceMatrix({"x": np.array([3.0, 4.0]), "y": np.array([5.0])}, {"x": 6, "y": 1}, 2)
    both = merge([a, b])
    assert both.in_sum2["x"].tolist() == [4.0, 6.0]
    assert both.counts == {"x": 8, "y": 1}
    assert both.n_samples == 3
    assert mean_squares(both, "x").tolist() == [0.5, 0.75]
    assert a.in_sum2["x"].tolist() == [1.0, 2.0]


def test_parts_of_different_models_do_not_add_up():
    with pytest.raises(ValueError, match="x has"):
        merge([ImportanceMatrix({"x": np.ones(2)}, {"x": 1}), ImportanceMatrix({"x": np.ones(3)}, {"x": 1})])


def test_a_written_file_reads_back(tmp_path):
    matrix = ImportanceMatrix({"blk.0.attn_q.weight": np.array([1.5, 0.25, 3.0])}, {"blk.0.attn_q.weight": 7}, 4)
    imatrix_file.write(tmp_path / "imatrix.gguf", matrix, ["set"], 512)
    again = imatrix_file.read(tmp_path / "imatrix.gguf")
    assert again.in_sum2["blk.0.attn_q.weight"].tolist() == [1.5, 0.25, 3.0]
    assert again.counts == {"blk.0.attn_q.weight": 7}
    assert again.n_samples == 4
