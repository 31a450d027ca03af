"""The search for the best types under a budget: a knapsack on estimated KLD, measured, learnt from, and improved by
swaps. Pure: what a choice of types does is measured by whoever calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from luq_gguf.method import knapsack, sensitivity
from luq_gguf.method.knapsack import Options
from luq_gguf.method.racing import Aim, Measurement
from luq_gguf.method.sensitivity import Sensitivity, TensorGroup

BLOCKS = 10  # blocks of layers that are measured apart, at most
CHOICES = 4  # knapsack choices that are measured before swaps
PROBE_NOISE = 0.3  # standard deviation of log KLD of files far from the budget: they tell less of those within it
GAP = 1e-3  # of an estimate that is off by a tenth
SHORTLIST = 200  # swaps whose standard error is computed
Types = tuple[int, ...]
Measure = Callable[[Types, Aim], Measurement]


@dataclass(frozen=True)
class SearchSpace:
    """The matrices of a model and what each may become. Arrays are [n_tensors, n_types].

    `tensor_group` and `choice_group` [n_tensors] number each matrix's sensitivity and what is chosen together with it;
    `errors` are relative output errors, or nats that they are foretold to cost (`prior` says how sure either is);
    `same` numbers the first type that is the same one for this matrix; `plain` [n_types] are types that all matrices
    can have alike; `seconds` of a decoded token, where a speed is asked for.
    """

    tensor_groups: tuple[TensorGroup, ...]
    tensor_group: np.ndarray
    choice_group: np.ndarray
    errors: np.ndarray
    n_bytes: np.ndarray
    same: np.ndarray
    plain: tuple[int, ...]
    fixed_bytes: int
    seconds: np.ndarray | None = None
    fixed_seconds: float = 0.0
    prior: sensitivity.Prior = sensitivity.LEARNED

    @cached_property
    def options(self) -> Options:
        """Return the groups' choices."""
        seconds = None if self.seconds is None else self._by_choice_group(self.seconds)
        allowed = np.ones((self.n_choice_groups, self.errors.shape[1]), bool)
        n_bytes = self._by_choice_group(self.n_bytes).astype(np.int64)
        return Options(n_bytes, allowed, self.fixed_bytes, seconds, self.fixed_seconds)

    @property
    def n_choice_groups(self) -> int:
        return int(self.choice_group.max()) + 1

    def _by_choice_group(self, values: np.ndarray) -> np.ndarray:
        sums = np.zeros((self.n_choice_groups, values.shape[1]), values.dtype)
        np.add.at(sums, self.choice_group, values)
        return sums

    def tensor_group_errors(self, types: Types) -> np.ndarray:
        """Return the errors of a file's tensor groups, [n_tensor_groups]."""
        return np.bincount(self.tensor_group, self._of(self.errors, types), len(self.tensor_groups))

    def file_bytes(self, types: Types) -> int:
        return self.fixed_bytes + int(self._of(self.n_bytes, types).sum())

    def token_seconds(self, types: Types) -> float:
        assert self.seconds is not None
        return self.fixed_seconds + float(self._of(self.seconds, types).sum())

    def _of(self, values: np.ndarray, types: Types) -> np.ndarray:
        return values[np.arange(len(types)), list(types)]

    def costs(self, sensitivities: np.ndarray) -> np.ndarray:
        """Return the estimated KLD of every group's options, [n_groups, n_types]."""
        return self._by_choice_group(self.errors * sensitivities[self.tensor_group][:, None])

    def spread(self, choice: Sequence[int]) -> Types:
        """Convert groups' types to matrices' types."""
        return self.first(tuple(int(choice[group]) for group in self.choice_group))

    def first(self, types: Types) -> Types:
        """Return the same file, with every type by its first number."""
        return tuple(int(self.same[tensor, kind]) for tensor, kind in enumerate(types))


@dataclass(frozen=True)
class Constraints:
    """What the file may be, and how long to search. `enough` ends the search early, for example when its time is used
    up."""

    n_bytes: int
    seconds: float | None = None
    swaps: int = 16
    enough: Callable[[], bool] = lambda: False

    def met(self, space: SearchSpace, types: Types) -> bool:
        # the solver holds a row to a millionth
        fast = self.seconds is None or space.token_seconds(types) <= self.seconds * (1 + 1e-6)
        return fast and space.file_bytes(types) <= self.n_bytes


@dataclass(frozen=True)
class SearchResult:
    """The types with the least measured KLD, everything that was measured (in order; some on a few questions), and the
    predictions for them.

    `predicted` and `predicted_error` are in nats, from all files but this one; `bound` is the least KLD that any choice
    can have by the final estimate, `estimate` the least that the knapsack found.
    """

    types: Types
    kld: float
    predicted: float
    predicted_error: float
    estimate: float
    bound: float
    n_swaps: int
    n_helped: int
    measured: dict[Types, Measurement] = field(repr=False)


class Search:
    """What has been measured so far, and what to measure next."""

    def __init__(self, space: SearchSpace, constraints: Constraints, measure: Measure) -> None:
        self._space, self._constraints, self._measure = space, constraints, measure
        self.measured: dict[Types, Measurement] = {}
        self._taught: set[Types] = set()  # measured on a few questions, to learn from

    def try_types(self, types: Types, *, few: bool = False) -> None:
        """Measure a file once: on a few questions, or for as long as it may be better than the best so far."""
        if types not in self.measured or (types in self._taught and not few):
            self.measured[types] = self._measure(types, Aim(None if few else self._best, few=few))
            (self._taught.add if few and not self.measured[types].is_whole else self._taught.discard)(types)

    def try_whole(self, types: Types) -> None:
        """Measure a file once, on all questions."""
        if types not in self.measured:
            self.measured[types] = self._measure(types, Aim())

    def is_new(self, types: Types) -> bool:
        """Return whether a file has not been compared with the best one yet."""
        return types not in self.measured or types in self._taught

    @property
    def best(self) -> Types:
        """Return the file within the limits that measured best on all questions."""
        best = self._best
        assert best is not None
        return best

    @property
    def _best(self) -> Types | None:
        whole = [types for types, kld in self.measured.items() if kld.is_whole]
        within = [types for types in whole if self._constraints.met(self._space, types)]
        return min(within, key=lambda types: (self.measured[types].kld, types), default=None)

    def learnt(self, but: Types | None = None) -> Sensitivity:
        """Return sensitivities from everything that has been measured, except `but`."""
        used = {types: measured for types, measured in self.measured.items() if types != but}
        errors = np.array([self._space.tensor_group_errors(types) for types in used])
        known = [sensitivity.NOISE if self._constraints.met(self._space, types) else PROBE_NOISE for types in used]
        noise = np.hypot(known, [measured.error for measured in used.values()])
        klds = np.array([measured.kld for measured in used.values()])
        return sensitivity.fit(self._space.tensor_groups, errors, klds, noise, self._space.prior)

    def solve(self, sensitivities: np.ndarray, gap: float = GAP) -> knapsack.Allocation:
        """Return the knapsack's choice; nearly the best is good enough for a file to measure."""
        constraints = self._constraints
        return knapsack.solve(
            self._space.costs(sensitivities), self._space.options, constraints.n_bytes, constraints.seconds, gap
        )

    def probe(self, seed: int) -> None:
        """Measure parts and blocks of layers quantized on their own; then the knapsack's choices from what these
        taught, and from other plausible sensitivities."""
        for types in probes(self._space, self._constraints.n_bytes):
            if self._constraints.enough() and self.measured:
                break
            self.try_types(types, few=True)
        rng = np.random.default_rng(seed)
        for turn in range(CHOICES):
            sensitivity = self.learnt()
            types = self._space.spread(self.solve(sensitivity.values).choice)
            if turn and not self.is_new(types):
                types = self._space.spread(self.solve(sensitivity.drawn(rng)).choice)
            self.try_types(types)
            if self._constraints.enough():
                break

    def swap(self) -> tuple[int, int]:
        """Measure what is predicted to be better than the best so far, until nothing is; return how many were measured,
        and how many helped."""
        tried = helped = 0
        while tried < self._constraints.swaps and not self._constraints.enough():
            best = self.best
            types = self._next()
            if types is None:
                break
            tried += 1
            self.try_types(types)
            helped += self.best != best
        return tried, helped

    def _next(self) -> Types | None:
        sensitivity = self.learnt()
        optimum = self._space.spread(self.solve(sensitivity.values).choice)
        expected = [sensitivity.predict(self._space.tensor_group_errors(types))[0] for types in (optimum, self.best)]
        if self.is_new(optimum) and expected[0] < expected[1]:
            return optimum
        return self._best_swap(sensitivity)

    def _best_swap(self, sensitivity: Sensitivity) -> Types | None:
        """Of all changes of one or two groups that keep the budget and were not measured, the one that may gain most:
        by its expected gain and one standard error. None where none may gain."""
        space, best = self._space, np.array(self.best)
        moves = _moves(space, tuple(best), sensitivity.values)
        if not len(moves.groups):  # one type for all
            return None
        room = self._constraints.n_bytes - space.file_bytes(tuple(best))
        pairs: list[tuple[int, ...]] = [(int(move),) for move in np.nonzero(moves.n_bytes <= room)[0]]
        costs = [moves.costs[move] for (move,) in pairs]
        fits = moves.n_bytes[:, None] + moves.n_bytes[None, :] <= room
        fits &= (moves.groups[:, None] != moves.groups[None, :]) & np.tri(len(moves.groups), dtype=bool)
        together = np.where(fits, moves.costs[:, None] + moves.costs[None, :], np.inf).reshape(-1)
        front = np.argpartition(together, min(SHORTLIST, together.size - 1))[:SHORTLIST]
        pairs += [divmod(int(at), len(moves.groups)) for at in front if np.isfinite(together[at])]
        costs += [together[at] for at in front if np.isfinite(together[at])]
        scored = []
        for pair, cost in zip(pairs, costs, strict=True):
            change = moves.errors[list(pair)].sum(axis=0)
            scored.append((cost - sensitivity.standard_error(change), pair))
        for score, pair in sorted(scored, key=lambda move: move[0]):
            if score >= 0:
                return None
            types = best.copy()
            for move in pair:
                types[space.choice_group == moves.groups[move]] = moves.kinds[move]
            candidate = space.first(tuple(int(kind) for kind in types))
            if self.is_new(candidate) and self._constraints.met(space, candidate):
                return candidate
        return None


@dataclass(frozen=True)
class _Moves:
    """Changes of one group's type from where a file is: how much more bytes, estimated KLD, and errors
    [., n_tensor_groups]."""

    groups: np.ndarray
    kinds: np.ndarray
    n_bytes: np.ndarray
    costs: np.ndarray
    errors: np.ndarray


def _moves(space: SearchSpace, types: Types, sensitivities: np.ndarray) -> _Moves:
    at = np.arange(len(types))
    more = space.errors - space.errors[at, list(types)][:, None]
    by_tensor_group = np.zeros((space.n_choice_groups, space.errors.shape[1], len(space.tensor_groups)))
    np.add.at(
        by_tensor_group,
        (space.choice_group[:, None], np.arange(more.shape[1])[None, :], space.tensor_group[:, None]),
        more,
    )
    before = np.bincount(space.choice_group, space.n_bytes[at, list(types)], space.n_choice_groups).astype(np.int64)
    groups, kinds = _other_options(space, types)
    errors = by_tensor_group[groups, kinds]
    return _Moves(groups, kinds, space.options.n_bytes[groups, kinds] - before[groups], errors @ sensitivities, errors)


def _other_options(space: SearchSpace, types: Types) -> tuple[np.ndarray, np.ndarray]:
    """Group and number of every option that changes a matrix of its group, each outcome once."""
    options = []
    for group in range(space.n_choice_groups):
        inside = np.nonzero(space.choice_group == group)[0]
        seen = {tuple(types[tensor] for tensor in inside)}
        for kind in np.nonzero(space.options.allowed[group])[0]:
            outcome = tuple(int(n) for n in space.same[inside, kind])
            if outcome not in seen:
                seen.add(outcome)
                options.append((group, int(kind)))
    groups, kinds = np.array(options, np.int64).reshape(-1, 2).T
    return groups, kinds


def probes(space: SearchSpace, most_bytes: int) -> list[Types]:
    """Return files that tell sensitivities apart: every matrix in the largest type; and each part of all layers, and
    each block of layers, in the type whose uniform file is nearest to the budget. None where they are foretold: files
    near the budget correct that."""
    if space.prior != sensitivity.LEARNED:
        return []
    n = len(space.tensor_group)
    sizes = {kind: space.file_bytes((kind,) * n) for kind in space.plain}
    largest = max(sizes, key=sizes.__getitem__)
    others = {kind: abs(size - most_bytes) for kind, size in sizes.items() if size < sizes[largest]}
    if not others:
        return [space.first((largest,) * n)]
    probe_kind = min(others, key=others.__getitem__)
    tensor_groups = [space.tensor_groups[number] for number in space.tensor_group]
    layers = sorted({tensor_group.layer for tensor_group in tensor_groups if tensor_group.layer is not None})
    size = -(-len(layers) // BLOCKS)
    blocks = [set(layers[at : at + size]) for at in range(0, len(layers), max(1, size))]
    chosen = [
        [tensor_group.part == part for tensor_group in tensor_groups]
        for part in dict.fromkeys(tensor_group.part for tensor_group in tensor_groups)
    ]
    chosen += [[tensor_group.layer in block for tensor_group in tensor_groups] for block in blocks]
    files = [(largest,) * n, *(tuple(probe_kind if hit else largest for hit in hits) for hits in chosen)]
    return list(dict.fromkeys(space.first(types) for types in files))


def most_files(space: SearchSpace, most_bytes: int, swaps: int, n_starts: int) -> int:
    """Return how many files a search measures at most."""
    return n_starts + len(probes(space, most_bytes)) + CHOICES + swaps


def search(
    space: SearchSpace,
    constraints: Constraints,
    measure: Measure,
    starts: Sequence[Types] = (),
    seed: int = 0,
) -> SearchResult:
    """Return the best types found. `starts` are files to begin with, if they are within the limits. `measure` is told
    what a file is measured for: one that is not to teach alone, without a file to beat, is measured on all questions.

    Raises BudgetError where no choice is within them.
    """
    state = Search(space, constraints, measure)
    state.solve(np.ones(len(space.tensor_groups)))  # raises before anything is measured
    for types in map(space.first, starts):
        if constraints.met(space, types):
            state.try_whole(types)
    state.probe(seed)
    n_swaps, n_helped = state.swap()
    best, final = state.best, state.learnt()
    predicted = state.learnt(but=best).predict(space.tensor_group_errors(best))
    optimum = state.solve(final.values, gap=0.0)
    kld = state.measured[best].kld
    return SearchResult(best, kld, *predicted, optimum.cost, optimum.bound, n_swaps, n_helped, state.measured)
