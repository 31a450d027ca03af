"""The knapsack against all choices there are, and what more room can do."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luq_gguf.core.errors import BudgetError
from luq_gguf.method import knapsack
from luq_gguf.method.knapsack import Options


@st.composite
def instances(draw, speed=False):
    """Up to 8 layers and 4 types, sizes as those of blocks (all alike, or not), some types not to be had."""
    n_groups, n_types = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    unit = draw(st.sampled_from([1, 2, 32, 7168]))
    size, cost = st.integers(1, 200), st.floats(0, 1e3) | st.integers(0, 3).map(float)
    table = st.lists(st.lists(size, min_size=n_types, max_size=n_types), min_size=n_groups, max_size=n_groups)
    n_bytes = np.array(draw(table)) * unit
    costs = np.array([[draw(cost) for _ in range(n_types)] for _ in range(n_groups)])
    allowed = np.array([[draw(st.booleans()) for _ in range(n_types)] for _ in range(n_groups)])
    allowed[:, draw(st.integers(0, n_types - 1))] = True
    seconds = np.array(draw(table)) / 1000 if speed else None
    return costs, Options(n_bytes, allowed, draw(st.integers(0, 1000)), seconds)


def every_choice(options):
    rows = [np.nonzero(row)[0] for row in options.allowed]
    return [tuple(int(k) for k in choice) for choice in itertools.product(*rows)]


def least(costs, options, most_bytes, most_seconds=None):
    """Of all choices the least cost, or None where none is within the budget."""
    fits = [c for c in every_choice(options) if knapsack.n_bytes_of(options, c) <= most_bytes]
    if most_seconds is not None:
        fits = [c for c in fits if knapsack.seconds_of(options, c) <= most_seconds]
    return min((float(costs[np.arange(len(c)), list(c)].sum()) for c in fits), default=None)


@settings(deadline=None)  # scipy is imported in the first
@given(instances(), st.floats(-0.1, 1.1))
def test_the_solver_agrees_with_trying_all(instance, share):
    costs, options = instance
    smallest = knapsack.smallest_bytes(options)
    largest = options.fixed_bytes + int(np.where(options.allowed, options.n_bytes, 0).max(1).sum())
    most = int(smallest + share * (largest - smallest))
    wanted = least(costs, options, most)
    if wanted is None:
        with pytest.raises(BudgetError):
            knapsack.solve(costs, options, most)
        return
    found = knapsack.solve(costs, options, most)
    assert found.cost == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert found.n_bytes == knapsack.n_bytes_of(options, found.choice) <= most
    assert all(options.allowed[group, kind] for group, kind in enumerate(found.choice))
    assert found.bound <= found.cost * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(instances(speed=True), st.floats(0, 1), st.floats(0, 1))
def test_a_bound_on_speed_is_kept_and_the_least_cost_within_it_found(instance, room, slack):
    costs, options = instance
    everything = every_choice(options)
    sizes = sorted(knapsack.n_bytes_of(options, c) for c in everything)
    times = sorted(knapsack.seconds_of(options, c) for c in everything)
    most, longest = sizes[int(room * (len(sizes) - 1))], times[int(slack * (len(times) - 1))] + 1e-9
    wanted = least(costs, options, most, longest)
    if wanted is None:
        with pytest.raises(BudgetError):
            knapsack.solve(costs, options, most, longest)
        return
    found = knapsack.solve(costs, options, most, longest)
    assert found.cost == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert knapsack.seconds_of(options, found.choice) <= longest * (1 + 1e-6)


@settings(deadline=None)
@given(instances(), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_larger_budget_never_costs_more(instance, shares):
    costs, options = instance
    smallest = knapsack.smallest_bytes(options)
    largest = options.fixed_bytes + int(np.where(options.allowed, options.n_bytes, 0).max(1).sum())
    budgets = sorted(int(smallest + share * (largest - smallest)) for share in shares)
    found = [knapsack.solve(costs, options, most).cost for most in budgets]
    assert all(a >= b - 1e-9 * (1 + a) for a, b in itertools.pairwise(found))
