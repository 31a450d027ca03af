"""The search against models whose sensitivities are known: sums, and sums that compound."""

import itertools

import numpy as np
import pytest
from builders import entropies

from luq_gguf.core.errors import BudgetError
from luq_gguf.method import greedy, knapsack, mixed_precision, racing
from luq_gguf.method.mixed_precision import Constraints, SearchSpace
from luq_gguf.method.orders import ORDERS
from luq_gguf.method.racing import Aim, Measurement
from luq_gguf.method.sensitivity import TensorGroup

N_LAYERS, ERRORS, SIZES = 6, np.array([0.5, 0.1, 0.02, 0.004]), np.array([28, 42, 72, 105])


def whole(kld):
    """Measures all questions, whatever for."""
    return lambda types, aim: Measurement(kld(types))


def make_space(by_tensor=True, seconds=None):
    """Layers of two matrices, and a head that is worth much; four types."""
    cells = [TensorGroup(layer, part) for layer in range(N_LAYERS) for part in ("attn_q", "ffn_up")] + [
        TensorGroup(None, "output")
    ]
    n = len(cells)
    group = np.arange(n) if by_tensor else np.array([*(c.layer for c in cells[:-1]), N_LAYERS])
    same = np.tile(np.arange(4), (n, 1))
    return SearchSpace(
        tuple(cells), np.arange(n), group, np.tile(ERRORS, (n, 1)), np.tile(SIZES, (n, 1)) * 64, same, (0, 1, 2, 3),
        1000, seconds,
    )  # fmt: skip


def sensitivities(seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([np.exp(rng.normal(-7, 1, 2 * N_LAYERS)), [1.0]])


def kld_of(space, true, compound=0.0):
    """KLD of types: a sum, and where `compound` more for neighbours that are both damaged."""

    def kld(types):
        parts = space.tensor_group_errors(types) * true
        return float(parts.sum() + compound * np.sqrt(parts[:-1] * np.roll(parts[:-1], 1)).sum())

    return kld


@pytest.mark.parametrize("seed", range(4))
def test_a_sum_is_searched_to_near_the_best_there_is(seed):
    space, true = make_space(), sensitivities(seed)
    most = 1000 + 64 * 13 * 60
    best = knapsack.solve(space.costs(true), space.options, most)
    found = mixed_precision.search(space, Constraints(most), whole(kld_of(space, true)), seed=seed)
    assert space.file_bytes(found.types) <= most
    assert found.kld == pytest.approx(kld_of(space, true)(found.types))
    assert found.kld <= 1.2 * best.cost  # no matrix is measured alone
    assert abs(found.predicted - found.kld) <= 3 * found.predicted_error
    assert found.bound <= found.estimate * (1 + 1e-9)


@pytest.mark.parametrize("by_tensor", [True, False])
def test_what_it_begins_with_is_never_beaten_by_its_end_and_nothing_is_measured_twice(by_tensor):
    space, true = make_space(by_tensor), sensitivities(7)
    kld, seen = kld_of(space, true, compound=2.0), []

    def measure(types):
        seen.append(types)
        return kld(types)

    starts = [(0,) * 12 + (3,), (1,) * 12 + (3,), (2,) * 13]
    most = max(space.file_bytes(types) for types in starts[:2])
    found = mixed_precision.search(space, Constraints(most), whole(measure), starts)
    assert found.kld <= min(kld(types) for types in starts if space.file_bytes(types) <= most)
    assert len(seen) == len(set(seen)) <= mixed_precision.most_files(space, most, 16, len(starts))
    assert found.kld == min(v.kld for t, v in found.measured.items() if space.file_bytes(t) <= most)


def test_the_same_seed_searches_the_same_and_a_search_that_must_end_has_a_result():
    space, true = make_space(), sensitivities(1)
    most = 1000 + 64 * 13 * 50
    one, other = (
        mixed_precision.search(space, Constraints(most), whole(kld_of(space, true)), seed=3) for _ in range(2)
    )
    assert list(one.measured) == list(other.measured)
    short = mixed_precision.search(space, Constraints(most, enough=lambda: True), whole(kld_of(space, true)))
    assert len(short.measured) <= 2
    assert space.file_bytes(short.types) <= most


def test_no_room_is_told_before_anything_is_measured():
    space = make_space()

    def measure(types):
        raise AssertionError("measured")

    with pytest.raises(BudgetError):
        mixed_precision.search(space, Constraints(1000 + 64 * 13 * 28 - 1), whole(measure))
    smallest = knapsack.smallest_bytes(space.options)
    assert smallest == 1000 + 64 * 13 * 28


def test_a_bound_on_speed_holds_for_swaps_too():
    seconds = np.tile([4.0, 1.0, 2.0, 3.0], (13, 1)) / 1000
    space, true = make_space(seconds=seconds), sensitivities(2)
    constraints = Constraints(1000 + 64 * 13 * 60, seconds=0.020)
    found = mixed_precision.search(space, constraints, whole(kld_of(space, true)))
    assert space.token_seconds(found.types) <= 0.020
    assert constraints.met(space, found.types)


def test_greedy_is_never_worse_than_the_order_itself_and_looks_no_further_than_asked():
    rng = np.random.default_rng(0)
    pairs = rng.uniform(0, 1, (8, 8))
    alone = rng.uniform(0, 1, 8)
    seen = []

    def measure(layers):
        seen.append(frozenset(layers))
        return float(alone[list(layers)].sum() + pairs[np.ix_(layers, layers)].sum())

    order = tuple(int(n) for n in rng.permutation(8))
    layers = entropies(*np.argsort(order))
    for n_low in range(9):
        seen.clear()
        chosen = ORDERS["greedy"].all_layers(layers, 0, measure, lambda low, n=n_low: len(low) >= n)
        assert sorted(chosen) == list(range(8))
        assert measure(chosen[:n_low]) <= measure(order[:n_low]) + 1e-12
        assert len(seen) - 2 <= greedy.most_files(8, n_low)


def test_greedy_finds_what_no_order_of_single_layers_can():
    """Layers 0 and 1 cost least alone and most together."""
    alone = {0: 1.0, 1: 1.1, 2: 1.2, 3: 5.0}

    def measure(layers):
        return sum(alone[layer] for layer in layers) + (10 if {0, 1} <= set(layers) else 0)

    chosen = ORDERS["greedy"].all_layers(entropies(0, 1, 2, 3), 0, measure, lambda low: len(low) >= 2)
    assert set(chosen[:2]) == {0, 2}
    best = min(itertools.combinations(range(4), 2), key=measure)
    assert set(chosen[:2]) == set(best)


def test_options_that_change_nothing_do_not_hide_those_that_do():
    """Mixtures are the same as plain types for a head: as many of them as there may be, swaps go on."""
    plain, n_more = make_space(), 300
    wide = [np.concatenate([values, np.tile(values[:, 1:2], (1, n_more))], axis=1)
            for values in (plain.errors, plain.n_bytes, plain.same)]  # fmt: skip
    space = SearchSpace(plain.tensor_groups, plain.tensor_group, plain.choice_group, *wide, (0, 1, 2, 3), 1000)
    true, constraints = sensitivities(5), Constraints(1000 + 64 * 13 * 60)
    one, other = (mixed_precision.search(s, constraints, whole(kld_of(s, true))) for s in (plain, space))
    assert other.n_swaps > 0
    assert other.kld == pytest.approx(one.kld, rel=0.05)


def test_a_single_type_leaves_nothing_to_search():
    wide = make_space()
    one = SearchSpace(
        wide.tensor_groups,
        wide.tensor_group,
        wide.choice_group,
        wide.errors[:, :1],
        wide.n_bytes[:, :1],
        wide.same[:, :1],
        (0,),
        0,
    )
    found = mixed_precision.search(one, Constraints(10**9), whole(kld_of(one, sensitivities(0))))
    assert found.types == (0,) * 13
    assert len(found.measured) == 1
    assert found.n_swaps == 0


def raced(klds_of, n):
    """Measures questions one after the other as racing asks; counts them."""
    known, spent = {}, []

    def measure(types, aim):
        sums, measured = klds_of(types), []
        rival = known.get(aim.to_beat, next(iter(known.values()), sums))
        while len(measured) < n and (aim == Aim() or racing.goes_on(measured, rival, aim)):
            measured.append(sums[len(measured)])
        spent.append(len(measured))
        total = racing.estimate(measured, rival)
        if total.is_whole:
            known[types] = sums
        return Measurement(total.kld / n, total.error)

    return measure, spent


def test_a_race_finds_as_good_files_with_half_of_the_questions():
    """Questions differ by a factor of three, and files by a tenth in each."""
    n, gains, spent, saved = 64, [], 0, 0
    for seed in range(4):
        space, true = make_space(), sensitivities(seed)
        kld, constraints = kld_of(space, true), Constraints(1000 + 64 * 13 * 60)
        weights = np.random.default_rng(seed).lognormal(0, 1, n)

        def klds_of(types, kld=kld, weights=weights):
            return kld(types) * weights * np.random.default_rng(types).lognormal(0, 0.1, n)

        def of_all(types, klds_of=klds_of):
            return klds_of(types).mean()

        full = mixed_precision.search(space, constraints, whole(of_all), [(1,) * 13], seed=seed)
        measure, counts = raced(klds_of, n)
        found = mixed_precision.search(space, constraints, measure, [(1,) * 13], seed=seed)
        assert found.measured[found.types].is_whole
        gains.append(kld(found.types) / kld(full.types))
        spent, saved = spent + sum(counts), saved + n * len(full.measured)
    assert np.mean(gains) <= 1.05
    assert spent <= 0.5 * saved
