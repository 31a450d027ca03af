"""Pictures and questions of the instrument: the same for the same seed, right by construction, and tests apart from
training."""

import hashlib
import math
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageDraw

import easy_vqa_data
from instrument import draw, splits, vocabulary
from luq_gguf.workflows.easy_vqa import SIDE

FIRST = {  # what the measured accuracies of the models are about
    "read": [("what does the sign say?", "MZZKNJ"), ("what word is written?", "YJDGX")],
    "document": [("what is the value of L?", "6343"), ("what is the value of G?", "434")],
    "chart": [("which bar is the highest?", "C"), ("what bar has the smallest value?", "Y")],
    "count": [("count the squares.", "2"), ("how many yellow shapes are there?", "1")],
    "relation": [("which letter does the red star hold?", "Z"), ("what color is the shape with W?", "red")],
    "presence": [("is there a red triangle?", "yes"), ("is there a purple square?", "no")],
    "facts": [("what is the food of this one?", "cheese"), ("where does this one live?", "quito")],
    "easy": [("what is the color of the rectangle?", "green"), ("does the image not contain a triangle?", "yes")],
}
PATTERNS = {
    kind: re.compile("|".join(re.escape(text).replace(r"\{\}", "(.+)") for text in texts))
    for kind, texts in vocabulary.QUESTIONS.items()
}
SEEDS = range(40)


def parsed(question: str) -> tuple[str, tuple[str, ...]]:
    """The kind of a question and the words in it. "count the red shapes" is one of colours: what follows is longest."""
    found = [
        (kind, tuple(word for word in match.groups() if word))
        for kind, pattern in PATTERNS.items()
        if (match := pattern.fullmatch(question))
    ]
    return min(found, key=lambda one: sum(len(word) for word in one[1]))


def spy(monkeypatch, where, name):
    """The arguments of every call of a function that goes on as before."""
    calls, real = [], getattr(where, name)

    def noted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, noted)
    return calls


def drawn(split, seed, test=False):
    return draw.sample(np.random.default_rng([99, seed]), split, test)


def digest(picture):
    return hashlib.sha256(picture.tobytes()).hexdigest()


@pytest.mark.parametrize("split", draw.NAMES)
def test_a_seed_means_the_same_pictures_and_questions(split):
    few, more = list(draw.for_tests(split, 3)), list(islice(draw.for_tests(split, 100), 3))
    for one, again in zip(few, more, strict=True):
        assert np.array_equal(one.picture, again.picture)
        assert (one.text, one.answer) == (again.text, again.answer)
        assert one.picture.shape == (SIDE, SIDE, 3)
        assert one.picture.dtype == np.uint8
    assert len({digest(question.picture) for question in few}) == 3
    other = next(draw.for_tests(split, 1, seed=draw.TEST_SEED + 1))
    assert not np.array_equal(other.picture, few[0].picture)
    assert [(question.text, question.answer) for question in few[:2]] == FIRST[split]


@given(st.integers(0, 2**32), st.booleans())
def test_words_of_tests_are_never_drawn_for_training(seed, test):
    word = splits.read(np.random.default_rng(seed), test).asked[0].answer
    assert vocabulary.is_held_out(word) == test


def test_words_to_train_on_are_not_those_of_tests():
    training = {s.asked[0].answer for split, s in draw.for_training(0, 400) if split == "read"}
    tests = {splits.read(np.random.default_rng([5, i]), True).asked[0].answer for i in range(50)}
    assert len(training) == 50
    assert not training & tests
    assert not any(map(vocabulary.is_held_out, training))
    assert all(map(vocabulary.is_held_out, tests))


def test_a_tenth_of_all_words_is_held_out():
    n, share = 20_000, 26 / 256
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(vocabulary.LETTERS), 7)) for _ in range(n)]
    found = sum(map(vocabulary.is_held_out, words)) / n
    assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("split", draw.NAMES)
@pytest.mark.parametrize("seed", [draw.CALIBRATION_SEED, draw.TRAINING_SEED, draw.TEST_SEED])
def test_pictures_of_tests_are_not_those_of_training_whatever_the_seeds(split, seed):
    tests = {digest(question.picture) for question in draw.for_tests(split, 12, seed)}
    others = {digest(question.picture) for question in draw.for_calibration(split, 12, seed)}
    others |= {digest(question.picture) for question in draw.for_calibration(split, 12)}
    assert len(tests) == 12
    assert not tests & others


@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.integers(0, 2**20), st.lists(st.integers(0, 2**20), max_size=2))
def test_no_training_seed_begins_a_tests_stream(seed, split, i, others):
    """numpy fills seeds with zeros up to four numbers: what a fourth one of tests is for."""
    test = np.random.SeedSequence([seed, split, i, draw._OF_TESTS]).generate_state(4)
    for training in ([seed, split, i], [seed, *others], [seed, split], [draw.TRAINING_SEED, i]):
        assert not np.array_equal(test, np.random.SeedSequence(training).generate_state(4))


def test_the_stream_of_a_chunk_holds_every_split_in_turn():
    first, again = (list(draw.for_training(3, 16)) for _ in range(2))
    assert [split for split, _ in first] == [*draw.NAMES] * 2
    for (_, one), (_, same) in zip(first, again, strict=True):
        assert np.array_equal(one.picture, same.picture)
        assert one.asked == same.asked
    other = {digest(sample.picture) for _, sample in draw.for_training(4, 16)}
    assert not other & {digest(sample.picture) for _, sample in first}


@pytest.mark.parametrize("test", [False, True])
def test_a_word_is_spelled_as_it_is_written(monkeypatch, test):
    written = spy(monkeypatch, splits, "written_word")
    for seed in SEEDS:
        asked = drawn("read", seed, test).asked
        word = written[-1][1]
        assert re.fullmatch("[A-Z]{4,9}", word)
        told = {"word": word, "first": word[0], "last": word[-1]}
        assert [told[parsed(question)[0]] for question, _ in asked] == [answer for _, answer in asked]
        assert {parsed(question)[0] for question, _ in asked} == set(told)


def test_facts_are_those_of_the_name_on_the_tag(monkeypatch):
    written = spy(monkeypatch, splits, "written_word")
    known = {person.name: person for person in vocabulary.people()}
    assert len(known) == 1024
    for seed in SEEDS:
        asked = drawn("facts", seed).asked
        person = known[written[-1][1]]
        assert [answer for _, answer in asked] == [person.food, person.place]
        assert [parsed(question)[0] for question, _ in asked] == ["eats", "lives"]


def test_a_document_says_what_is_asked_of_it(monkeypatch):
    rows_drawn = spy(monkeypatch, splits, "_draw_rows")
    for seed in SEEDS:
        asked = drawn("document", seed).asked
        rows = dict(zip(*rows_drawn[-1][2:4], strict=True))
        assert 4 <= len(rows) <= 6
        for question, answer in asked:
            kind, (word,) = parsed(question)
            assert (rows[word] == answer) if kind == "value" else (rows[answer] == word)
        assert Counter(parsed(question)[0] for question, _ in asked) == {"value": 3, "key": 1}


def test_a_chart_says_what_is_asked_of_it(monkeypatch):
    bars_drawn = spy(monkeypatch, splits, "_draw_bars")
    for seed in SEEDS:
        asked = drawn("chart", seed).asked
        bars = dict(zip(*bars_drawn[-1][2:4], strict=True))
        highest, lowest = max(bars, key=bars.get), min(bars, key=bars.get)
        for question, answer in asked:
            kind, words = parsed(question)
            if kind == "higher":
                assert answer == ("yes" if bars[words[0]] > bars[words[1]] else "no")
            else:
                assert answer == {"highest": highest, "lowest": lowest}.get(kind) or str(bars[words[0]])
        assert {parsed(question)[0] for question, _ in asked} == {"highest", "lowest", "bar", "higher"}


def shapes_of(calls):
    """Shape, colour and centre of what was drawn."""
    colors = {value: name for name, value in vocabulary.COLORS.items()}
    return [(shape, colors[fill], center) for _, shape, center, _, fill in calls]


def test_shapes_are_counted_right(monkeypatch):
    calls = spy(monkeypatch, splits, "put_shape")
    for seed in SEEDS:
        calls.clear()
        asked = drawn("count", seed).asked
        shapes = shapes_of(calls)
        told = {"count_all": len(shapes)}
        for question, answer in asked:
            kind, words = parsed(question)
            told["count_shape"] = sum(shape in words for shape, _, _ in shapes)
            told["count_color"] = sum(color in words for _, color, _ in shapes)
            assert answer == str(told[kind])


def test_half_of_what_is_asked_for_is_present(monkeypatch):
    calls = spy(monkeypatch, splits, "put_shape")
    near = 0
    for seed in SEEDS:
        calls.clear()
        asked = drawn("presence", seed).asked
        there = {(color, shape) for shape, color, _ in shapes_of(calls)}
        for question, answer in asked:
            words = parsed(question)[1]
            assert answer == ("yes" if words in there else "no")
            colors, kinds = zip(*there, strict=True)
            near += words not in there and words[0] in colors and words[1] in kinds
        assert Counter(answer for _, answer in asked) == {"yes": 2, "no": 2}
    assert near > 0.7 * 2 * len(SEEDS)  # most of what is missing is a near miss


def test_letters_lie_as_it_is_said(monkeypatch):
    calls, texts = spy(monkeypatch, splits, "put_shape"), spy(monkeypatch, ImageDraw.ImageDraw, "text")
    kinds = set()
    for seed in SEEDS:
        calls.clear()
        texts.clear()
        asked = drawn("relation", seed).asked
        shape_of, color_of, at = {}, {}, {}
        for (shape, color, center), (_, (x, y), letter) in zip(shapes_of(calls), texts, strict=True):
            assert (x, y) == (center[0], center[1] + 1)
            shape_of[letter], color_of[letter], at[letter] = shape, color, center
        for question, answer in asked:
            kind, words = parsed(question)
            kinds.add(kind)
            if kind == "letter_in":
                assert (color_of[answer], shape_of[answer]) == words
            elif kind == "nearest":
                far = {math.dist(at[letter], at[words[0]]): letter for letter in at if letter != words[0]}
                assert answer == far[min(far)]
            elif kind in ("left", "above"):
                axis = ("left", "above").index(kind)
                assert answer == ("yes" if at[words[0]][axis] < at[words[1]][axis] else "no")
            else:
                assert answer == {"color_of": color_of, "shape_of": shape_of}[kind][words[0]]
    assert kinds == {"letter_in", "color_of", "shape_of", "nearest", "left", "above"}


def test_easy_questions_are_about_what_is_drawn(monkeypatch):
    calls = spy(monkeypatch, easy_vqa_data, "draw")
    for seed in SEEDS:
        for question, answer in drawn("easy", seed).asked:
            shape, color = easy_vqa_data.SHAPES[calls[-1][1]], list(easy_vqa_data.COLORS)[calls[-1][2]]
            if answer in ("yes", "no"):
                words = question.rstrip("?").split()
                is_there = shape in words or color in words
                assert answer == ("yes" if is_there != ("no" in words or "not" in words) else "no")
            else:
                assert answer in (shape, color)


def test_easy_vqas_own_pictures_are_of_training_alone():
    pixels = np.arange(3 * SIDE * SIDE * 3, dtype=np.uint8).reshape(3, SIDE, SIDE, 3)
    own = splits.LabelledPictures(pixels, np.array([0, 1, 2]), np.array([3, 4, 5]))
    known = {digest(picture) for picture in pixels}

    def share(test):
        drawn = (draw.sample(np.random.default_rng(seed), "easy", test, own) for seed in range(100))
        return sum(digest(sample.picture) in known for sample in drawn) / 100

    assert share(True) == 0
    assert abs(share(False) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 100)
