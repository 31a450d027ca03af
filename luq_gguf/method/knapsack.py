"""Which type each group of tensors gets under a budget: a multiple-choice knapsack, solved exactly by scipy's HiGHS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from luq_gguf.core.errors import BudgetError

TIME_LIMIT = 60.0  # seconds; the bound says what is not proven by then
_SCALE = 1e6  # of the objective: HiGHS stops at an absolute gap of 1e-6


@dataclass(frozen=True)
class Options:
    """What each group may become, as arrays [n_groups, n_types]: bytes in the file, seconds in a decoded token; a type
    that a group cannot have is False in `allowed`. `fixed_bytes` and `fixed_seconds` are those of everything that has
    no choice."""

    n_bytes: np.ndarray
    allowed: np.ndarray
    fixed_bytes: int = 0
    seconds: np.ndarray | None = None
    fixed_seconds: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """A type's number for every group; `bound` is a cost that no allocation can be below (`cost` where it is proven to
    be the least)."""

    choice: tuple[int, ...]
    cost: float
    bound: float
    n_bytes: int


def smallest_bytes(options: Options) -> int:
    """Return the bytes of the smallest file."""
    return options.fixed_bytes + int(np.where(options.allowed, options.n_bytes, np.iinfo(np.int64).max).min(1).sum())


def n_bytes_of(options: Options, choice: tuple[int, ...]) -> int:
    """Return the bytes of the file with these choices."""
    return options.fixed_bytes + int(options.n_bytes[np.arange(len(choice)), list(choice)].sum())


def seconds_of(options: Options, choice: tuple[int, ...]) -> float:
    """Return the seconds of a decoded token with these choices."""
    assert options.seconds is not None
    return options.fixed_seconds + float(options.seconds[np.arange(len(choice)), list(choice)].sum())


def solve(
    costs: np.ndarray, options: Options, most_bytes: int, most_seconds: float | None = None, gap: float = 0.0
) -> Allocation:
    """Return the choices with the least sum of costs [n_groups, n_types] within the budget; `gap` is how much more, as
    a share, is acceptable.

    Raises BudgetError where none are within it.
    """
    room = most_bytes
    while True:
        allocation = _relaxed(costs, options, room, most_seconds, gap)
        excess = allocation.n_bytes - most_bytes
        if excess <= 0:
            return allocation
        room -= excess  # HiGHS holds a row to a tolerance; bytes are exact


def _relaxed(
    costs: np.ndarray, options: Options, most_bytes: int, most_seconds: float | None, gap: float
) -> Allocation:
    from scipy import optimize, sparse  # takes a second to import

    group, kind = np.nonzero(_worth_it(costs, options))
    cost, sizes = costs[group, kind], options.n_bytes[group, kind]
    top = float(cost.max()) or 1.0
    unit = int(np.gcd.reduce(sizes)) or 1
    one_each = sparse.csr_array((np.ones(len(group)), (group, np.arange(len(group)))))
    constraints = [
        optimize.LinearConstraint(one_each, 1, 1),
        optimize.LinearConstraint((sizes // unit)[None, :], -np.inf, (most_bytes - options.fixed_bytes) // unit),
    ]
    if most_seconds is not None:
        assert options.seconds is not None
        seconds, most = options.seconds[group, kind], most_seconds - options.fixed_seconds
        constraints.append(optimize.LinearConstraint(seconds[None, :] / max(most, 1e-12), -np.inf, 1.0))
    with _silent():
        solution = optimize.milp(
            cost / top * _SCALE,
            integrality=np.ones(len(group)),
            bounds=optimize.Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": gap, "time_limit": TIME_LIMIT},
        )
    if solution.x is None:
        raise BudgetError(
            "No choice of types meets the budget.", "Ask for more bytes or fewer tokens/s, or give other --types."
        )
    taken = solution.x > 0.5
    choice = tuple(int(k) for k in kind[taken])
    total = float(cost[taken].sum())
    bound = total if solution.status == 0 and not gap else min(total, float(solution.mip_dual_bound) * top / _SCALE)
    return Allocation(choice, total, bound, n_bytes_of(options, choice))


@contextmanager
def _silent() -> Iterator[None]:
    """HiGHS writes to the process's standard output, also when it is told to be quiet; JSON may be going there."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _worth_it(costs: np.ndarray, options: Options) -> np.ndarray:
    """The options that no other of the same group is at least as good as in everything; of equal ones the first."""
    measures = [costs, options.n_bytes] + ([options.seconds] if options.seconds is not None else [])
    n = costs.shape[1]
    no_worse = np.ones((costs.shape[0], n, n), bool)  # [group, a, b]: a is no worse than b
    better = np.zeros_like(no_worse)
    for values in measures:
        no_worse &= values[:, :, None] <= values[:, None, :]
        better |= values[:, :, None] < values[:, None, :]
    first = np.tri(n, n, -1, dtype=bool).T[None]  # of equal ones the earlier beats the later
    beaten = no_worse & (better | first) & options.allowed[:, :, None]
    return np.asarray(options.allowed & ~beaten.any(axis=1))
