import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq_gguf.core.measurements import Difference
from luq_gguf.core.speeds import Ratio
from luq_gguf.method.metrics.intervals import (
    LEAST,
    accuracy,
    between,
    bootstrap,
    format_ratio,
    in_points,
    mcnemar,
    mean_over_positions,
    paired_difference,
    paired_ratio,
    ratio_of_means,
    share,
    spread_of,
    with_interval,
)


def test_the_interval_is_that_of_the_normal_approximation_for_many_samples():
    values = (np.arange(2000) % 4 == 0).astype(float)
    found = bootstrap(values)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 2000)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - half, abs=2e-3)
    assert found.high == pytest.approx(0.25 + half, abs=2e-3)
    assert bootstrap(values) == found


def test_all_alike_leaves_no_doubt_and_no_samples_have_no_mean():
    assert bootstrap(np.ones(LEAST)).to_json() == {"value": 1.0, "low": 1.0, "high": 1.0}
    with pytest.raises(ValueError, match="no samples"):
        bootstrap(np.empty(0))


@pytest.mark.parametrize("n", [1, LEAST - 1])
def test_few_samples_have_a_mean_and_no_interval(n):
    assert bootstrap(np.full(n, 0.3)).to_json() == {"value": pytest.approx(0.3), "low": None, "high": None}
    positions = [np.array([1.0, 3.0])] * n
    assert mean_over_positions(positions).to_json() == {"value": 2.0, "low": None, "high": None}
    assert mean_over_positions(positions * LEAST).low == 2.0
    assert accuracy(np.full(n, 0.5)).low is None
    assert accuracy(np.ones(n)).low == pytest.approx(0.025 ** (1 / n))  # a share has an exact one
    assert paired_difference(np.zeros(n), np.full(n, 0.5)).low is None


def test_shares_of_few_samples_have_the_exact_interval():
    assert accuracy(np.array([1.0, 0.0, 1.0])) == share(2, 3, "exact")


def test_what_has_no_interval_is_shown_without():
    assert with_interval("0.5", 0.25, 0.75, ".1f") == "0.5 (0.2 to 0.8)"
    assert with_interval("0.5", None, None, ".1f") == "0.5 (no interval: fewer than 8 samples)"
    assert between(None, None, ".1f") == ""


def test_pairs_that_always_differ_by_the_same_are_certain():
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=100)
    found = paired_difference(noisy, noisy - 0.5)
    assert (found.value, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))
    with pytest.raises(ValueError, match="same samples"):
        paired_difference(noisy, noisy[:3])


def shares(both, first, second, neither):
    """Right and wrong answers of two files: so many questions that both, only one or none of them answers."""
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    return tuple(np.array(side, float) for side in zip(*pairs, strict=True))


def test_a_paired_difference_of_shares_is_that_of_the_questions_that_differ():
    found = paired_difference(*shares(700, 60, 33, 231))
    n, moved = 1024, (33 - 60) / 1024
    half = 1.96 * np.sqrt(((60 + 33) / n - moved**2) / n)  # Wald's interval of a paired difference
    assert found.value == pytest.approx(moved)
    assert (found.low, found.high) == pytest.approx((moved - half, moved + half), abs=2e-3)
    assert found.n_questions == n
    assert found.p_value == pytest.approx(mcnemar(60, 33))
    separate = [accuracy(side) for side in shares(700, 60, 33, 231)]
    assert separate[1].high > separate[0].low, "their own intervals overlap"
    assert found.high < 0


@pytest.mark.parametrize(
    ("worse", "better", "p_value"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 1, 10 / 16), (2, 2, 1.0), (10, 2, 158 / 4096)]
)
def test_mcnemars_exact_p_value_is_both_tails_of_the_binomial(worse, better, p_value):
    assert mcnemar(worse, better) == mcnemar(better, worse) == pytest.approx(p_value)


def test_of_thousands_of_pairs_it_is_still_a_number():
    assert mcnemar(3000, 3000) == 1
    assert mcnemar(4000, 2000) < 1e-100
    assert mcnemar(3080, 2920) == pytest.approx(0.040, abs=5e-4)  # scipy.stats.binomtest(2920, 6000)


def test_soft_scores_have_no_p_value():
    found = paired_difference(np.full(20, 0.3), np.arange(20) / 20)
    assert found.to_json().keys() == {"value", "low", "high", "n_questions"}


score_lists = st.lists(st.tuples(st.sampled_from([0, 0.3, 0.6, 1]), st.sampled_from([0, 0.3, 0.6, 1])), min_size=1)


@settings(max_examples=40, deadline=None)
@given(score_lists)
def test_the_other_way_round_is_the_same_with_the_other_sign(pairs):
    first, second = np.array(pairs).T
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert back.value == pytest.approx(-there.value)
    assert there.value == pytest.approx(second.mean() - first.mean())
    assert (there.p_value, there.n_questions) == (back.p_value, back.n_questions)
    if there.low is None:
        assert (back.low, len(pairs) < LEAST) == (None, True)
    else:
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
        assert there.low <= there.value <= there.high


def test_a_difference_is_told_in_points():
    told = in_points(Difference(-0.0262, -0.0412, -0.0118, 1024))
    assert told == "-2.6 points (-4.1 to -1.2), 1,024 questions"
    assert in_points(Difference(-0.0, -0.0001, 0.25, 9)) == "+0.0 points (+0.0 to +25.0), 9 questions"
    assert in_points(Difference(1.0, None, None, 1)) == (
        "+100.0 points (no interval: fewer than 8 samples), 1 question"
    )
    assert in_points(Difference(0.01, 0.0, 0.02)) == "+1.0 points (+0.0 to +2.0)", "of older files"


def test_no_mistake_in_so_many_is_not_certainty():
    assert accuracy(np.ones(100)).low == pytest.approx(0.025**0.01)
    assert accuracy(np.zeros(100)).high == pytest.approx(1 - 0.025**0.01)
    some = np.arange(30) % 3 == 0
    assert accuracy(some) == bootstrap(some)
    same = paired_difference(np.ones(100), np.ones(100))
    assert (same.low, same.high) == pytest.approx((-(1 - 0.025**0.01), 1 - 0.025**0.01))


def test_the_interval_of_a_share_is_the_textbooks():
    found = share(81, 263, "wilson")  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (found.value, found.low, found.high) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    assert share(0, 20, "exact").high == pytest.approx(0.1684, abs=5e-5)


def test_a_ratio_that_never_changes_has_no_doubt_and_one_pair_has_no_interval():
    assert paired_ratio(np.array([2.0, 4.0]), np.array([3.0, 6.0])).value == pytest.approx(1.5)
    alike = paired_ratio(np.array([2.0, 4.0]), np.array([3.0, 6.0]))
    assert (alike.low, alike.high) == pytest.approx((1.5, 1.5))
    assert paired_ratio(np.array([2.0]), np.array([3.0])).to_json() == {"value": 1.5, "low": None, "high": None}
    assert format_ratio(Ratio(1.5, None, None)) == "1.50"
    assert format_ratio(alike) == "1.50 (1.50 to 1.50)"


def test_a_second_series_has_its_ratio_in_the_interval_of_the_first_as_often_as_is_said():
    rng = np.random.default_rng(0)
    inside, tries = 0, 1000
    for _ in range(tries):
        first, second = np.exp(rng.normal(0, 0.05, (2, 10)))
        found = paired_ratio(np.ones(10), first)
        inside += found.low <= np.exp(np.log(second).mean()) <= found.high
    assert 0.93 < inside / tries < 0.97


def test_the_spread_of_samples():
    told = spread_of([1.0, 2.0, 6.0])
    assert (told.mean, told.median, told.samples) == (3.0, 2.0, (1.0, 2.0, 6.0))
    assert told.std == pytest.approx(7**0.5)
    assert spread_of([2.0]).std == 0


def test_a_ratio_of_means_weighs_every_value_and_resamples_whole_samples():
    rng = np.random.default_rng(0)
    one = [rng.uniform(1, 2, n) for n in (5, 40, 12, 30)]
    found = ratio_of_means(one, [3 * values for values in one])
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))
    other = [values * factor for values, factor in zip(one, (1, 2, 3, 4), strict=True)]
    found = ratio_of_means(one, other)
    assert found.value == pytest.approx(np.concatenate(other).mean() / np.concatenate(one).mean())
    assert 1 <= found.low < found.value < found.high <= 4
    with pytest.raises(ValueError, match="the same samples"):
        ratio_of_means(one, one[:3])
