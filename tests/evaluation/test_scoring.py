"""Which metric scores which question, and what sets of questions are refused."""

import re

import numpy as np
import pytest

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import EvalData, Sample
from luq_gguf.evaluation import scoring

ONE, TWO, TEN = ("red",), ("red", "crimson"), ("red",) * 3 + ("crimson",) * 7


def data(*answers, prompt="what color?"):
    return EvalData("set", tuple(Sample(prompt, (), given) for given in answers), (), "", "")


def test_one_line_does_not_change_the_metric_of_the_others():
    asked = data(ONE, TWO, TEN)
    chosen = scoring.choose_metrics("auto", asked.samples)
    assert chosen == ("exact", "exact", "vqa")
    assert scoring.metric_name(chosen) == "vqa and exact"
    assert scoring.scores(["red", "crimson", "red"], asked, chosen).tolist() == pytest.approx([1, 1, 0.9])
    assert scoring.scores(["a red", "a red", "a red"], asked, chosen).tolist() == pytest.approx([0, 0, 0.9])


def test_questions_without_answers_do_not_count():
    asked, told = data(ONE, (), ONE), []
    chosen = scoring.choose_metrics("auto", asked.samples)
    assert np.array_equal(scoring.scores(["red", "red", "blue"], asked, chosen), [1, 0])
    scoring.tell(chosen, asked, Reporter(info=told.append))
    assert told == ["1 of 3 questions have no answers: they do not count for accuracy"]


def test_nothing_is_scored_without_any_answers():
    assert scoring.choose_metrics("auto", data((), ()).samples) is None
    assert scoring.choose_metrics("none", data(ONE).samples) is None
    assert scoring.choose_metrics("auto", ()) is None
    assert scoring.metric_name(None) is None


def test_vqa_by_name_says_what_it_does_with_few_answers():
    asked, told = data(ONE, TWO, TEN), []
    chosen = scoring.choose_metrics("vqa", asked.samples)
    assert scoring.scores(["crimson"] * 3, asked, chosen).tolist() == [0, 1, 1]
    scoring.tell(chosen, asked, Reporter(info=told.append))
    assert told == ["2 questions have fewer than 10 answers: any of them counts as right"]


@pytest.mark.parametrize(
    ("metric", "answers", "words"),
    [
        ("yes-no", ("ja",), '"what color?" is "ja"'),
        ("yes-no", ("yes", "1"), '"what color?" is "1"'),
        ("choice", ("red",), '"what color?" is "red"'),
        ("choice", ("0",), "the letter of an option"),
        ("exact", (), "1 of 2 questions have no answers"),
    ],
)
def test_answers_that_a_metric_cannot_compare_with_are_refused(metric, answers, words):
    fitting = {"yes-no": ("no",), "choice": ("B. red", "red")}.get(metric, ONE)
    with pytest.raises(EvaluationError, match=re.escape(words)):
        scoring.choose_metrics(metric, data(fitting, answers).samples)
    assert scoring.choose_metrics(metric, data(fitting).samples) == (metric,)


def test_f1_is_of_the_metric_yes_no_alone():
    asked = data(("yes",), ("no", "no", "yes"))
    assert scoring.f1_of_yes(["Yes!", "yes"], asked, ("yes-no", "yes-no")) == pytest.approx(2 / 3)
    assert not isinstance(scoring.f1_of_yes(["Yes!", "yes"], asked, ("exact", "exact")), float)
