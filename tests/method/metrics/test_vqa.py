"""Scores against published examples and analytic values."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("n", range(1, 10))
def test_fewer_than_ten_references_are_alternatives(n):
    assert vqa.vqa("Crimson.", ["red"] * (n - 1) + ["crimson"]) == 1
    assert vqa.vqa("blue", ["red"] * n) == 0


@pytest.mark.parametrize(("said", "reference"), [("the", "A"), ("", "a"), ("!", "?"), ("", "an")])
def test_what_would_normalize_to_nothing_is_compared_as_it_is(said, reference):
    assert vqa.vqa(said, [reference]) == 0
    assert vqa.vqa(said, [reference] * 10) == 0
    assert vqa.vqa(reference, [reference] * 10) == 1


@pytest.mark.parametrize("metric", ["vqa", "exact", "anls", "relaxed"])
def test_composed_and_decomposed_letters_are_the_same(metric):
    score = vqa.METRICS[metric].score
    assert score("Café", [unicodedata.normalize("NFD", "café")]) == 1
    assert score(unicodedata.normalize("NFD", "Café"), ["café"]) == 1


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
        ("No!", False),
        ("**No**", False),
        ("<b>no</b>", False),
        ("no;", False),
        ('"No"', False),
        ("\u201cNo\u201d", False),
        ("No - blue", False),
        ("No\nThere is a dog", False),
        ("\n\n1. No", False),
        ("Answer: no", False),
        ("There isn't one", False),
        ("There isn\u2019t one", False),
        ("It doesnt show one", False),
        ("I cannot see one", False),
        ("Yes!\nNo other animal is there.", True),
        ("I know", True),
        ("", None),
        (" ?! ", None),
    ],
)
def test_pope_reads_the_first_sentence(said, yes):
    assert vqa.says_yes(said) is yes


@pytest.mark.parametrize("reference", ["ja", "nein", "true", "false", "1", "0", "red", "", "yes and no", "not"])
def test_references_that_are_not_yes_or_no_are_refused(reference):
    assert not vqa.is_yes_or_no(reference)
    with pytest.raises(ValueError, match="neither yes nor no"):
        vqa.yes_no("no", [reference])


@pytest.mark.parametrize("reference", ["No", "no.", "**NO**", " no\n"])
def test_references_are_read_without_markup(reference):
    assert vqa.yes_no("There is none.", [reference]) == 1
    assert vqa.yes_no("yes", [reference]) == 0
    assert vqa.yes_no("", [reference]) == vqa.yes_no("", ["yes"]) == 0


def test_several_people_say_yes_or_no():
    assert vqa.yes_no("no", ["yes", "no", "no"]) == 1
    assert vqa.yes_no("yes", ["yes", "no"]) == 1, "as many of both: the first"


@pytest.mark.parametrize(
    "said",
    [
        *("B", "b", "B.", "(B)", "[B]", "b)", "B. red", "B) red", "(B) red", "B: red", "B - red", "**B**", "<b>B</b>"),
        *("\u201cB\u201d", "The answer is B.", "The correct answer is (B) red.", "Answer: B", "ANSWER: **B. red**"),
        *("the answer is b", "The answer to the question is B.", "Option B", "\\boxed{B}", "$\\boxed{\\text{B}}$"),
        *("Option A is wrong. The answer is B.", "B because it is red", "It's B!", "I choose B.", "Red.", "red"),
    ],
)
def test_an_option_is_found_in_free_text(said):
    assert vqa.choice(said, ["B. red"]) == 1
    assert vqa.choice(said, ["C. blue"]) == 0
    assert vqa.choice(said, ["C. blue", "B", "red"]) == 1


@pytest.mark.parametrize(
    "said",
    [
        *("", "A", "A dog", "A. red\nB. blue", "A and B", "(A) or (B)", "B or C", "A, B", "Option A or option B"),
        *("It is not B", "The answer is not B", "The answer is a B-flat", "The answer is A or B", "Answer: A dog"),
        *("I think so", "None", "Vitamin B", "Bred", "blue"),
    ],
)
def test_text_that_does_not_choose_b_is_wrong(said):
    assert vqa.choice(said, ["B. red"]) == 0
    assert vqa.choice(said, ["(b)"]) == 0


def test_which_references_are_options():
    assert all(map(vqa.is_option, ["B", "(b)", "B.", "B. red", "[C] blue"]))
    assert not any(map(vqa.is_option, ["red", "1", "0", "", "A dog", "Bred"]))


TEN = ("red",) * 9 + ("blue",)
LISTED = "What is the color?\nA. red\nB. blue\nAnswer with the letter."


@pytest.mark.parametrize(
    ("prompt", "references", "metric"),
    [
        ("What color?", ("red",), "exact"),
        ("What color?", ("red", "crimson"), "exact"),
        ("What color?", TEN, "vqa"),
        (LISTED, ("B",), "choice"),
        ("What color? (A) red (B) blue", ("(A)",), "choice"),
        (LISTED, ("red",), "exact"),
        (LISTED, ("C",), "exact"),
        ("Which letter is on the shirt?", ("B",), "exact"),
    ],
)
def test_every_question_gets_its_own_metric(prompt, references, metric):
    assert vqa.automatic(prompt, references) == metric


TEXT = st.text(max_size=30)


@given(TEXT, TEXT, st.integers(1, 12))
def test_scores_are_shares_and_the_reference_itself_is_right(said, reference, n):
    for name in ("vqa", "exact", "anls", "relaxed", "choice"):
        assert 0 <= vqa.METRICS[name].score(said, [reference] * n) <= 1
    for name in ("vqa", "exact", "anls", "relaxed"):
        assert vqa.METRICS[name].score(reference, [reference] * n) == 1


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=14), st.sampled_from("abcd"))
def test_the_soft_score_is_the_mean_over_leaving_each_person_out(people, said):
    people = [letter * 3 for letter in people]  # "a" is an article
    left_out = [people[:at] + people[at + 1 :] for at in range(len(people))]
    expected = sum(min(1, others.count(said * 3) / 3) for others in left_out) / len(people)
    assert vqa.vqa(said * 3, people) == pytest.approx(expected)


@given(st.sampled_from("ABCDEFGH"), st.sampled_from(["{}", "({})", "{}.", "**{}**", "Answer: {}", "The answer is {}."]))
def test_any_letter_in_any_form_is_found(letter, form):
    assert vqa.chosen_option(form.format(letter)) == letter


@given(TEXT, st.sampled_from(["yes", "no"]))
def test_free_text_means_one_of_both_or_nothing(said, reference):
    other = {"yes": "no", "no": "yes"}[reference]
    assert vqa.yes_no(said, [reference]) + vqa.yes_no(said, [other]) == (vqa.says_yes(said) is not None)


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
        ("\u221298", "-100", 1),
        ("nan", "nan", 1),
        ("inf", "infinity", 0),
        ("1_0", "10", 0),
    ],
)
def test_relaxed_accuracy_allows_numbers_five_percent(said, known, right):
    assert vqa.relaxed(said, [known]) == right
