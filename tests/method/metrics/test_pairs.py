"""Files that are paired question by question, from what eval.json has of them."""

from dataclasses import replace

import numpy as np
import pytest
from builders import eval_of
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.measurements import Metrics
from luq_gguf.method.metrics import intervals, pairs

FIRST, SECOND = [1, 1, 1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1, 0, 1, 0, 1]
SPLITS = {"read": range(6), "count": range(6, 10)}


def test_the_difference_is_that_of_the_scores_and_of_every_split():
    found = pairs.between(eval_of("a.gguf", FIRST, SPLITS), eval_of("b.gguf", SECOND, SPLITS))
    assert (found.first, found.second) == ("a.gguf", "b.gguf")
    assert found.accuracy_change == intervals.paired_difference(np.array(FIRST, float), np.array(SECOND, float))
    assert found.accuracy_change.value == pytest.approx(-0.2)
    assert {name: split.value for name, split in found.splits.items()} == pytest.approx(
        {"read": -1 / 6, "count": -1 / 4}
    )
    assert [split.n_questions for split in found.splits.values()] == [6, 4]


def test_without_splits_or_with_other_ones_the_whole_is_paired_alone():
    plain = pairs.between(eval_of("a.gguf", FIRST), eval_of("b.gguf", SECOND))
    assert plain.splits is UNSET
    assert list(plain.to_json()) == ["first", "second", "accuracy_change"]
    other = replace(eval_of("b.gguf", SECOND, SPLITS), splits_sha256="0e")
    assert pairs.between(eval_of("a.gguf", FIRST, SPLITS), other) == plain
    assert pairs.between(eval_of("a.gguf", FIRST), other) == plain


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=10, max_size=10))
def test_swapping_the_files_negates_every_difference(answers):
    sides = [
        eval_of(name, list(map(int, side)), SPLITS) for name, side in zip("ab", zip(*answers, strict=True), strict=True)
    ]
    there, back = pairs.between(*sides), pairs.between(*sides[::-1])
    for one, other in zip(
        (there.accuracy_change, *there.splits.values()), (back.accuracy_change, *back.splits.values()), strict=True
    ):
        assert one.value == pytest.approx(-other.value)
        assert one.p_value == other.p_value
    weighted = sum(split.value * split.n_questions for split in there.splits.values()) / 10
    assert there.accuracy_change.value == pytest.approx(weighted)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data_sha256": "0e"}, "they were measured on other questions or texts, or in another order"),
        ({"scores": "1 0"}, "they were measured on other questions or texts, or in another order"),
        ({"scores": UNSET}, "the scores of b.gguf were not kept"),
        ({"scores": ""}, "the scores of b.gguf were not kept"),
        ({"metric": "vqa"}, "one is scored by exact and the other by vqa"),
        ({"max_tokens": 4}, "their answers were of at most 32 and 4 tokens"),
        ({"fit_images": True}, "only one of them was shown fitted pictures"),
    ],
)
def test_other_questions_are_refused(change, why):
    first, second = eval_of("a.gguf", FIRST), eval_of("b.gguf", SECOND)
    asked = {name: change[name] for name in ("data_sha256", "max_tokens", "fit_images") if name in change}
    rest = {name: value for name, value in change.items() if name not in asked}
    second = replace(second, conditions=replace(second.conditions, **asked), **rest)
    with pytest.raises(EvaluationError) as caught:
        pairs.between(first, second)
    assert caught.value.message == f"a.gguf and b.gguf cannot be paired question by question: {why}."
    assert pairs.all_between([first, second]) == []


def test_all_files_are_paired_the_later_minus_the_earlier():
    files = [eval_of(name, FIRST) for name in ("a", "b", "c")]
    found = pairs.all_between([*files, replace(files[0], file="d", scores=UNSET)])
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_points_of_a_sweep_are_paired_where_their_scores_were_kept():
    plain = Metrics(None, None, None, None, None, None, None, None)
    first, second = replace(plain, scores="1 1 0 1"), replace(plain, scores="1 0 0 0")
    assert pairs.of_points(first, second).value == -0.5
    assert pairs.of_points(first, plain) is None
    with pytest.raises(ValueError, match="same samples"):
        pairs.of_points(first, replace(plain, scores="1 0"))
