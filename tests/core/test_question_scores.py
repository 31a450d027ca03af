import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq_gguf.core import question_scores


def test_right_and_wrong_are_one_sign_each():
    assert question_scores.packed([1.0, 0.0, 0.3]) == "1 0 0.3"
    assert question_scores.unpacked("1 0 0.3") == (1.0, 0.0, 0.3)
    assert question_scores.packed([]) == ""


@given(st.lists(st.floats(0, 1)))
def test_what_is_read_is_what_was_written(scores):
    assert question_scores.unpacked(question_scores.packed(scores)) == tuple(scores)


@pytest.mark.parametrize("text", ["1 x", "nan", "inf", "-0.5", "1.5", "1,0"])
def test_what_is_no_score_is_refused(text):
    with pytest.raises(ValueError, match="float|from 0 to 1"):
        question_scores.check(text)
