"""The registry of orders: each gives every layer once, and measures no more files than it says."""

import itertools

import pytest
from builders import entropies

from luq_gguf.method.orders import ORDERS, UNMEASURED, rank

LAYERS = entropies(3.0, 1.0, 2.0, 1.5, 2.5)
COST = {0: 5.0, 1: 4.0, 2: 1.0, 3: 3.0, 4: 2.0}


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_goes_from_no_layer_to_all(name):
    seen = []

    def measure(low):
        seen.append(low)
        return sum(COST[layer] for layer in low)

    steps = list(ORDERS[name].steps(LAYERS, 0, measure))
    assert [len(step) for step in steps] == list(range(6))
    assert all(set(one) < set(more) for one, more in itertools.pairwise(steps) if name != "greedy")
    most = ORDERS[name].n_files
    assert len(seen) <= (most(5, 5) if most else 5 if ORDERS[name].foretold else 0)
    assert sorted(ORDERS[name].all_layers(LAYERS, 0, measure)) == list(range(5))


@pytest.mark.parametrize("name", ["kld", "fisher"])
def test_alone_orders_by_what_each_layer_costs(name):
    assert ORDERS[name].all_layers(LAYERS, 0, lambda low: COST[low[0]]) == (2, 4, 3, 1, 0)


def test_what_is_not_measured_needs_nothing_but_the_profile():
    ranked = {name: rank(LAYERS, name) for name in UNMEASURED}
    assert all(sorted(order) == list(range(5)) for order in ranked.values())
    assert (ranked["entropy"][0], ranked["entropy-desc"][0]) == (1, 0)
    with pytest.raises(ValueError, match="kld is measured"):
        rank(LAYERS, "kld")


def test_lines_of_orders_can_be_told_apart_in_print():
    lines = [tuple(order.line.items()) for order in ORDERS.values()]
    markers = [order.line["marker"] for order in ORDERS.values()]
    assert len(set(lines)) == len(set(markers)) == len(ORDERS)
