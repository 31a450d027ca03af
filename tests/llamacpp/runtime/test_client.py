"""One prompt, read once: its greedy answer and all expectations are those of separate requests."""

import numpy as np
import pytest

from luq_gguf.core.turns import Turn
from luq_gguf.llamacpp.runtime.client import LlamaClient


@pytest.fixture(scope="module")
def runner(small, tmp_path_factory):
    with LlamaClient(small.f16, small.mmproj, n_ctx=512) as loaded:
        yield loaded


def test_measuring_gives_the_greedy_answer_and_the_prompts_expectations(runner, test_set):
    for image, question, _ in test_set[:5]:
        measured = runner.measure(question, image, max_tokens=4)
        asked, scored = runner.ask(question, image, max_tokens=4), runner.score(question, image)
        assert (measured.text, measured.answer) == (asked.text, asked.tokens)
        assert measured.forced == measured.answer
        assert measured.prompt == scored.tokens
        assert len(measured.log_probabilities) == len(measured.prompt) + len(measured.answer)
        rows = measured.log_probabilities[: len(scored.tokens)]
        assert np.allclose(rows, scored.log_probabilities, atol=1e-4)
        behind = measured.log_probabilities[len(scored.tokens) - 1 :].argmax(axis=1)
        assert tuple(behind[: len(measured.answer)]) == measured.answer


def test_a_forced_answer_is_followed_and_the_greedy_one_still_told(runner, test_set):
    image, question, _ = test_set[0]
    own = runner.measure(question, image, max_tokens=4)
    same = runner.measure(question, image, max_tokens=4, forced=own.answer)
    assert same.answer == own.answer
    assert np.allclose(same.log_probabilities, own.log_probabilities, atol=1e-4)
    other = next(
        found
        for image_2, question_2, _ in test_set
        if (found := runner.measure(question_2, image_2, max_tokens=4).answer) != own.answer
    )
    forced = runner.measure(question, image, max_tokens=4, forced=other)
    assert (forced.text, forced.answer) == (own.text, own.answer)
    assert forced.forced == other
    assert len(forced.log_probabilities) == len(forced.prompt) + len(other)


def test_kept_embeddings_change_nothing(small, test_set, tmp_path):
    image, question, _ = test_set[1]
    found = []
    for _ in range(2):
        with LlamaClient(small.f16, small.mmproj, n_ctx=512, embeddings=tmp_path) as loaded:
            found.append(loaded.measure(question, image, max_tokens=4))
        assert len(list(tmp_path.glob("*.npy"))) == 1
    with LlamaClient(small.f16, small.mmproj, n_ctx=512) as loaded:
        found.append(loaded.measure(question, image, max_tokens=4))
    assert found[0].text == found[1].text == found[2].text
    assert np.array_equal(found[0].log_probabilities, found[1].log_probabilities)
    assert np.array_equal(found[0].log_probabilities, found[2].log_probabilities)


def test_raw_tokens_are_scored_from_a_start_on(runner, test_set):
    tokens, bos = runner.tokenize("what is the color of the shape?")
    assert (tokens[0] == bos) == (bos is not None)
    whole, rest = runner.score_tokens(tokens, 0), runner.score_tokens(tokens, 3)
    assert whole.shape == (len(tokens), runner.n_vocab)
    assert np.allclose(whole[3:], rest, atol=1e-3)
    assert np.allclose(np.exp(whole).sum(axis=1), 1, atol=1e-5)


def test_several_pictures_in_several_turns_have_their_own_kept_embeddings(small, runner, test_set, tmp_path):
    first = test_set[0][0]
    images = [first, next(image for image, _, _ in test_set if image.read_bytes() != first.read_bytes())]
    turns = (Turn("user", ("what?", None)), Turn("assistant", ("red",)), Turn("user", (None, "and this?")))
    asked = [(turns, images), (turns, images[::-1]), ("what?", images[1])]
    expected = [runner.score_text(runner.render(turns), order) for order in (images, images[::-1])]
    expected.append(runner.score("what?", images[1]))
    with LlamaClient(small.f16, small.mmproj, n_ctx=512, embeddings=tmp_path) as loaded:
        found = [loaded.measure(*prompt, max_tokens=0) for prompt in asked + asked]  # the second time they are read
    assert len(list(tmp_path.glob("*.npy"))) == 2  # of a picture, wherever it stands
    for measured, scored in zip(found, expected + expected, strict=True):
        assert measured.prompt == scored.tokens
        assert np.array_equal(measured.log_probabilities, scored.log_probabilities)
    assert not np.array_equal(expected[0].log_probabilities, expected[1].log_probabilities)
    assert runner.count(turns, images) == expected[0].n_prompt
