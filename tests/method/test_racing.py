"""Racing against files whose divergence on every question is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luq_gguf.method import racing
from luq_gguf.method.racing import Aim


def run(candidate, rival, aim):
    """Questions of the candidate that are measured, until nothing more is asked."""
    measured = []
    while racing.goes_on(measured, rival, aim):
        measured.append(candidate[len(measured)])
    return measured


def test_a_file_with_twice_the_divergence_everywhere_is_known_after_the_least_questions():
    rival = np.random.default_rng(0).lognormal(0, 1, 64)
    measured = run(2 * rival, rival, Aim(to_beat=(0,)))
    assert len(measured) == racing.LEAST
    assert racing.estimate(measured, rival).kld == pytest.approx(2 * rival.sum())


def test_a_file_that_is_better_is_measured_on_all_questions_and_then_it_is_no_estimate():
    rival = np.random.default_rng(0).lognormal(0, 1, 64)
    measured = run(0.9 * rival, rival, Aim(to_beat=(0,)))
    assert len(measured) == 64
    assert racing.estimate(measured, rival) == racing.Measurement(pytest.approx(0.9 * rival.sum()), 0.0)


def test_a_file_that_teaches_has_a_quarter_of_the_questions():
    rival = np.ones(64)
    assert len(run(3 * rival, rival, Aim(few=True))) == 16
    assert len(run(3 * np.ones(8), np.ones(8), Aim(few=True))) == racing.LEAST


def test_the_error_is_that_of_a_ratio_estimate():
    """Many files with the same true ratio: estimates scatter as their errors say."""
    rng, n, m = np.random.default_rng(1), 64, 16
    off, errors = [], []
    for _ in range(400):
        rival = rng.lognormal(0, 0.5, n)
        candidate = 1.3 * rival * rng.lognormal(0, 0.3, n)
        guess = racing.estimate(candidate[:m], rival)
        off.append(guess.kld / candidate.sum() - 1)
        errors.append(guess.error)
    assert abs(np.mean(off)) < 0.01
    assert np.std(off) == pytest.approx(np.mean(errors), rel=0.15)


def test_racing_seldom_drops_a_better_file():
    rng, dropped, spent = np.random.default_rng(2), 0, 0
    for _ in range(300):
        rival = rng.lognormal(0, 1, 64)
        better = 0.95 * rival * rng.lognormal(0, 0.2, 64)
        dropped += better.sum() < rival.sum() and len(run(better, rival, Aim(to_beat=(0,)))) < 64
        spent += len(run(1.5 * rival * rng.lognormal(0, 0.2, 64), rival, Aim(to_beat=(0,))))
    assert dropped <= 30
    assert spent < 0.2 * 300 * 64


@pytest.mark.parametrize("aim", [Aim(to_beat=(0,)), Aim(few=True)])
def test_where_the_first_questions_show_no_divergence_all_are_asked(aim):
    """An error of nothing is not known; a file that is its reference has none anywhere."""
    rival = np.array([0.0] * 10 + [1.0] * 54)
    assert len(run(rival, rival, aim)) >= 11
    assert len(run(np.zeros(64), np.zeros(64), aim)) == 64
    assert racing.estimate([0.0] * 64, np.zeros(64)).is_whole


def test_questions_that_foretell_come_first():
    """One question is a tenth of every file's divergence; the others are noise that sums to as much."""
    rng = np.random.default_rng(3)
    sums = rng.uniform(0, 1, (6, 10)) * np.geomspace(1, 9, 6)[:, None]
    sums[:, 7] = sums.sum(axis=1) / 9
    assert racing.order(sums)[0] == 7


def test_without_two_files_questions_keep_their_order():
    assert racing.order(np.ones((1, 5))) == (0, 1, 2, 3, 4)
    assert racing.order(np.ones((2, 5))) == (0, 1, 2, 3, 4)


@given(st.integers(2, 8), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_an_order_has_every_question_once(n_files, n, seed):
    sums = np.random.default_rng(seed).exponential(size=(n_files, n))
    assert sorted(racing.order(sums)) == list(range(n))
