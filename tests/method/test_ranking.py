import pytest
from builders import entropies

from luq_gguf.method.orders import rank
from luq_gguf.method.ranking import agreement, near_ties, rank_by, unsettled


def test_lowest_entropy_comes_first_and_ties_go_by_depth():
    layers = entropies(3.0, 1.0, 2.0, 1.0)
    assert rank(layers, "entropy") == (1, 3, 2, 0)
    assert rank(layers, "entropy-desc") == (0, 2, 1, 3)


def test_random_order_depends_on_the_seed_alone():
    layers = entropies(*range(12))
    assert rank(layers, "random", 1) == rank(layers, "random", 1)
    assert rank(layers, "random", 1) != rank(layers, "random", 2)
    assert sorted(rank(layers, "random", 1)) == list(range(12))


def test_near_ties_are_neighbours_within_their_spread():
    layers = entropies(6.0, 6.5, 6.505, 7.0, spread=0.01)
    assert near_ties(layers, rank(layers, "entropy")) == ((1, 2),)
    assert near_ties(entropies(6.0, 6.1), (0, 1)) == ()


def test_a_measured_figure_ranks_the_least_first():
    assert rank_by({0: 0.3, 1: 0.1, 2: 0.3}) == (1, 0, 2)


def test_tau_is_one_for_the_same_order_and_minus_one_for_its_opposite():
    up, down = (1.0, 2.0, 3.0, 4.0), (4.0, 3.0, 2.0, 1.0)
    found = agreement({"seed-0": up, "seed-1": up, "half-a": up, "half-b": down, "k-50": (1.0, 2.0, 4.0, 3.0)})
    assert found["seeds"] == pytest.approx(1)
    assert found["halves"] == pytest.approx(-1)
    assert found["k-50"] == pytest.approx(4 / 6)  # one of six pairs is turned round
    assert agreement({}) == {}


def test_layers_that_only_some_ways_would_choose_are_not_settled():
    ways = {"seed-0": (1.0, 2.0, 3.0), "seed-1": (1.0, 3.0, 2.0), "k-50": (1.0, 2.0, 4.0), "k-200": (1.0, 2.0, 4.0)}
    assert unsettled(ways, 2) == {1: 0.75, 2: 0.25}
    assert unsettled(ways, 1) == {}
    assert unsettled(ways, 2, 0) == {}
    assert unsettled(ways, 1, kept=[0]) == {1: 0.75, 2: 0.25}
