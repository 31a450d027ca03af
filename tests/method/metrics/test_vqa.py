"""Scores against published examples and analytic values."""

import pytest

from luq_gguf.method.metrics import vqa


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("A dog.", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("dont", "don't"),
        ("shouldntve", "shouldn't've"),
        ("The man's hat", "man's hat"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("hello , world", "hello world"),
        ("  on   the\ntable ", "on table"),
    ],
)
def test_answers_are_normalized_as_in_vqav2(said, normal):
    assert vqa.normalize(said) == normal


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_soft_score_is_that_of_the_papers_leave_one_out(agreeing, score):
    assert vqa.vqa("Red!", ["red"] * agreeing + ["blue"] * (10 - agreeing)) == pytest.approx(score)


def test_one_reference_is_right_or_wrong():
    assert vqa.vqa("The circle.", ["circle"]) == 1
    assert vqa.vqa("square", ["circle"]) == 0


def test_exact_ignores_case_and_punctuation():
    assert vqa.exact("Circle.", ["triangle", "circle"]) == 1
    assert vqa.exact("a circle", ["circle"]) == 0


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("Yes, there is a dog.", True),
        ("No", False),
        ("There is not a dog. Yes.", False),
        ("yes. No doubt", True),
        ("Nothing", True),
    ],
)
def test_pope_reads_the_first_sentence(said, yes):
    assert vqa.says_yes(said) is yes


def test_f1_of_yes():
    said = ["yes", "yes", "no", "no"]
    true = ["yes", "no", "yes", "no"]
    assert vqa.f1_of_yes(said, true) == pytest.approx(0.5)
    assert vqa.f1_of_yes(["no"], ["yes"]) == 0
    assert [vqa.yes_no(a, [b]) for a, b in zip(said, true, strict=True)] == [1, 0, 0, 1]


def test_anls_is_the_papers_threshold_of_one_half():
    assert vqa.anls("Brasil", ["brasil"]) == 1
    assert vqa.anls("brazil", ["brasil"]) == pytest.approx(1 - 1 / 6)
    assert vqa.anls("abcd", ["abxy"]) == 0  # half of it is wrong
    assert vqa.anls("kitten", ["dog", "sitting"]) == pytest.approx(1 - 3 / 7)
    assert vqa.anls("", ["x"]) == 0


@pytest.mark.parametrize(
    ("said", "known", "right"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("14%", "0.14", 1),
        ("$1,000", "1000", 1),
        ("0.0", "0", 0),
        ("0", "0", 1),
        ("Canada.", "canada", 1),
        ("USA", "canada", 0),
        ("-98", "-100", 1),
        ("98", "-100", 0),
    ],
)
def test_relaxed_accuracy_allows_numbers_five_percent(said, known, right):
    assert vqa.relaxed(said, [known]) == right
