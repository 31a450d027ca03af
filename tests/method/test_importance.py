import numpy as np
import pytest

from luq_gguf.core.errors import GGUFFileError
from luq_gguf.core.types import ImportanceMatrix
from luq_gguf.llamacpp.gguf import imatrix
from luq_gguf.method.importance import FLOOR, floored, mean_squares, merge, never_active


def matrix(sums, counts, n_samples=1):
    """From plain lists: {name: rows}, {name: tokens per row}."""
    arrays = {name: np.array(rows, dtype=float) for name, rows in sums.items()}
    return ImportanceMatrix(arrays, {name: np.array(n) for name, n in counts.items()}, n_samples)


def test_parts_add_up():
    a = matrix({"x": [[1.0, 2.0]]}, {"x": [2]}, 1)
    b = matrix({"x": [[3.0, 4.0]], "y": [[5.0]]}, {"x": [6], "y": [1]}, 2)
    both = merge([a, b])
    assert both.in_sum2["x"].tolist() == [[4.0, 6.0]]
    assert {name: n.tolist() for name, n in both.counts.items()} == {"x": [8], "y": [1]}
    assert both.n_samples == 3
    assert mean_squares(both, "x").tolist() == [[0.5, 0.75]]
    assert a.in_sum2["x"].tolist() == [[1.0, 2.0]]
    assert a.counts["x"].tolist() == [2]


def test_experts_have_counts_of_their_own_and_one_without_tokens_weighs_all_columns_alike():
    experts = matrix({"x": [[4.0, 8.0], [0.0, 0.0]]}, {"x": [4, 0]})
    assert mean_squares(experts, "x").tolist() == [[1.0, 2.0], [1.0, 1.0]]


def test_no_column_counts_for_nothing():
    some = matrix(
        {"x": [[4.0, 0.0, 8.0]], "dead": [[0.0, 0.0]], "experts": [[6.0, 0.0], [0.0, 0.0], [2.0, 4.0]]},
        {"x": [2], "dead": [3], "experts": [2, 0, 1]},
        5,
    )
    least = floored(some)
    assert mean_squares(least, "x").tolist() == [[2.0, 2 * FLOOR, 4.0]]
    assert mean_squares(least, "dead").tolist() == [[1.0, 1.0]]
    assert mean_squares(least, "experts").tolist() == [[3.0, FLOOR * 2.25], [1.0, 1.0], [2.0, 4.0]]
    assert least.in_sum2["experts"][1].tolist() == [0.0, 0.0]  # what llama-quantize takes for no data
    assert least.n_samples == 5
    assert some.in_sum2["x"].tolist() == [[4.0, 0.0, 8.0]]


def test_what_was_never_active_is_counted_and_named():
    sums = {"a": [[4.0, 0.0, 0.0]], "b": [[1.0, 2.0]], "experts": [[6.0, 0.0], [0.0, 0.0]]}
    found = never_active(matrix(sums, {"a": [2], "b": [2], "experts": [2, 0]}))
    assert found.columns == {"a": 2, "experts": 1}
    assert found.experts == {"experts": (1,)}
    assert found.sentence == (
        "the calibration says nothing about matrix columns that were 0 for all tokens, 3 (a: 2; experts: 1) and "
        "experts' matrices that no token reached, 1 (experts: 1)"
    )
    assert never_active(matrix({"b": [[1.0, 2.0]]}, {"b": [2]})).sentence is None


def test_parts_of_different_models_do_not_add_up():
    with pytest.raises(ValueError, match="x has the shape"):
        merge([matrix({"x": [[1.0, 1.0]]}, {"x": [1]}), matrix({"x": [[1.0, 1.0, 1.0]]}, {"x": [1]})])


@pytest.mark.parametrize(
    ("sums", "counts"), [([[1.5, 0.25, 3.0]], [7]), ([[1.5, 0.25, 3.0], [0.0, 0.0, 0.0], [2.0, 4.0, 8.0]], [7, 0, 9])]
)
def test_a_written_file_reads_back(tmp_path, sums, counts):
    imatrix.write(tmp_path / "imatrix.gguf", matrix({"x": sums}, {"x": counts}, 4), ["set"], 512)
    again = imatrix.read(tmp_path / "imatrix.gguf")
    assert again.in_sum2["x"].tolist() == sums
    assert again.counts["x"].tolist() == counts
    assert again.n_samples == 4


def test_another_gguf_file_is_no_importance_matrix(tmp_path):
    imatrix.write(tmp_path / "empty.gguf", matrix({}, {}), [], 512)
    with pytest.raises(GGUFFileError, match="not a readable importance matrix"):
        imatrix.read(tmp_path / "empty.gguf")
