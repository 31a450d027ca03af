"""Makes the best plan: a type for every layer, or part of it, by measured KL divergence within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luq_gguf.benchmarking import type_benchmark, type_products
from luq_gguf.core import machine
from luq_gguf.core.errors import BudgetError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.measurements import Figures
from luq_gguf.core.plan_quality import ComparedFile, LowestKld, MeasuredKld, PredictedKld
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Budget, Plan, Profile
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method import knapsack, mixed_precision, orders, sensitivity, two_type_plan, uniform
from luq_gguf.method.mixed_precision import SearchResult, SearchSpace, Types
from luq_gguf.method.racing import Aim, Measurement
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.planning import foretold, variants
from luq_gguf.planning.meter import Meter, RacedFile
from luq_gguf.planning.variants import TYPES, Candidates
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

N_UNIFORM_STARTS = 3  # uniform files that the search begins with
LARGE = 50_000_000  # weights: a smaller model is fast in every type
USEFUL = 0.5  # of Q4_K's decode speed: types below are not chosen unless they are named


@dataclass(frozen=True)
class BestRequest:
    """What may be chosen, and how long to search. `types` None: all of TYPES that this CPU runs at a useful speed."""

    types: tuple[str, ...] | None = None
    by_tensor: bool = False
    swaps: int = 16
    minutes: float | None = None


@dataclass(frozen=True)
class Choices:
    """What may be chosen of a model, with its sizes: known before anything heavy."""

    candidates: Candidates
    budget: Budget
    speeds: SpeedTable | None
    by_tensor: bool

    def most_bytes(self, spec: ModelSpec) -> int:
        """Return the most bytes that the text model's file may have."""
        if self.budget.bpw is not None:
            return spec.tensors.header_bytes + int(self.budget.bpw * spec.tensors.n_weights / 8)
        assert self.budget.n_bytes is not None
        return self.budget.n_bytes

    def space(self, spec: ModelSpec, errors: Mapping[str, Sequence[float]] | None = None) -> SearchSpace:
        """Return the search space with errors, or with zeros where only sizes matter."""
        errors_or_zeros = errors or {name: [0.0] * len(self.candidates.kinds) for name in self.candidates.names}
        return variants.make_space(spec, self.candidates, errors_or_zeros, by_tensor=self.by_tensor, speeds=self.speeds)


def choices(
    session: Session,
    budget: Budget,
    request: BestRequest,
    *,
    refusal: Callable[[int, str], BudgetError] | None = None,
) -> Choices:
    """Return types and sizes. Raises BudgetError, naming the smallest possible file, where the budget is below it.

    Where no types are named, those that a large model would be slow with here are left out. `refusal` makes the error
    of the smallest file, in bytes and in words, where the size follows from another budget.
    """
    spec, reporter = session.spec, session.reporter
    kinds = tuple(reader.check_type(kind, "--types") for kind in request.types or TYPES)
    geometry, threads = type_benchmark.Geometry(spec.source, spec.tensors), session.options.threads
    if request.types is None and spec.tensors.n_weights >= LARGE:
        kinds = _useful(
            kinds, type_products.decode_rates(geometry, threads, {*kinds, "Q4_K"}, reporter) or {}, reporter
        )
    speeds = None
    if budget.decode_tps is not None:
        compared = sorted({*kinds, "Q4_K"})
        speeds = type_benchmark.measured_rates(geometry, threads or machine.cores(), reporter, compared)
    candidates = variants.candidates(spec, kinds, by_tensor=request.by_tensor)
    chosen = Choices(candidates, budget, speeds, request.by_tensor)
    most = chosen.most_bytes(spec)
    smallest = knapsack.smallest_bytes(chosen.space(spec).options)
    if most < smallest and refusal:
        raise refusal(smallest, f"with {', '.join(kinds)} the smallest text model takes")
    if most < smallest:
        allowed = " and ".join((", ".join(kinds), *spec.tensors.rules.options))
        raise BudgetError(
            f"No file of {format_size(most)} is possible with {allowed}: the smallest text model takes "
            f"{format_size(smallest)}.",
            f"Ask for --target-size {format_size(smallest, up=True).replace(' ', '')} or more, or give smaller "
            "--types.",
        )
    return chosen


def _useful(kinds: tuple[str, ...], rates: Mapping[str, float], reporter: Reporter) -> tuple[str, ...]:
    """The types that decode at a useful speed here; all, where that is not known."""
    least = USEFUL * rates.get("Q4_K", 0.0)
    slow = [kind for kind in kinds if rates.get(kind, least) < least]
    if slow:
        reporter.info(f"left out, slower than {USEFUL:g} times Q4_K's decode speed here: {', '.join(slow)}")
    return tuple(kind for kind in kinds if kind not in slow)


def best_plan(
    session: Session,
    profile: Profile | None,
    request: BestRequest,
    chosen: Choices,
    make_meter: Callable[[], Meter],
    seed: int = 0,
) -> Plan:
    """Return the best plan found, with its predicted and measured KL divergence, and that of the files to beat."""
    spec, reporter, budget = session.spec, session.reporter, chosen.budget
    began, most = time.monotonic(), chosen.most_bytes(spec)
    variants.check_space(session, chosen.candidates)
    space = _space(session, profile, chosen)
    meter = make_meter()
    rivals = _rivals(spec, profile, chosen.candidates, most)
    n_files = mixed_precision.most_files(space, most, request.swaps, len(rivals))
    measure = _PlanMeter(session, meter, chosen.candidates, n_files)
    starts: list[Types] = []
    rival_figures: dict[str, Figures] = {}
    for name, plan in rivals.items():
        types = chosen.candidates.as_choice(plan.tensor_types)
        starts += [types] if types else []
        rival_figures[name] = measure.whole(_label(spec, plan))

    def enough() -> bool:
        return request.minutes is not None and time.monotonic() - began > 60 * request.minutes

    slowest = None if budget.decode_tps is None else 1 / budget.decode_tps
    constraints = mixed_precision.Constraints(most, slowest, swaps=request.swaps, enough=enough)
    result = mixed_precision.search(space, constraints, measure.types, starts, seed)
    plan = variants.plan_of(spec, chosen.candidates.as_types(result.types), "best")
    figures = measure.whole(plan)
    share = measure.n_saved / (measure.n_positions + measure.n_saved)
    reporter.info(
        f"best: {len(result.measured)} files measured on {measure.n_positions} positions; racing saved {share:.0%} of "
        "what they have on all questions"
    )
    predicted: PredictedKld | None = _predicted(result, space, most, measure)
    rival = min(rival_figures, key=lambda name: _kld(rival_figures[name]), default=None)
    may_win = slowest is None and rival is not None and chosen.candidates.obeys(rivals[rival].tensor_types)
    if may_win and rival and _kld(rival_figures[rival]) < result.kld:  # of types that the variants do not hold
        plan, figures, predicted = _label(spec, rivals[rival], "best"), rival_figures[rival], None
    meter.close()
    budget_content: dict[str, object] = {key: value for key, value in vars(budget).items() if value is not None}
    budget_content |= {"types": list(chosen.candidates.kinds), "per": "tensor" if chosen.by_tensor else "layer"}
    return replace(
        plan,
        budget=budget_content,
        predicted_kld=predicted,
        measured_kld=measured_kld(figures, meter),
        compared=tuple(_compared(name, rival_figure) for name, rival_figure in rival_figures.items()),
    )


def _space(session: Session, profile: Profile | None, chosen: Choices) -> SearchSpace:
    """The search space: with the nats that types are foretold to cost, where gradients are to be had, else with the
    errors of some rows, whose cost is learned."""
    of_types = chosen.candidates.types
    costs = foretold.of_types(session, profile, {name: set(types) for name, types in of_types.items()})
    if costs is None:
        return chosen.space(session.spec, variants.errors_of(session, chosen.candidates))
    errors = {
        name: [costs[name][kind] for kind in types[: len(chosen.candidates.kinds)]] for name, types in of_types.items()
    }
    return replace(chosen.space(session.spec, errors), prior=sensitivity.FORETOLD)


class _PlanMeter:
    """Measures plans, each once, says after the first how long all will take, and counts positions."""

    def __init__(self, session: Session, meter: Meter, candidates: Candidates, most: int) -> None:
        self._session, self._meter, self._candidates, self._most = session, meter, candidates, most
        self._positions: dict[str, int] = {}  # of each file
        conditions = meter.conditions()
        data = f"{conditions.n_samples} questions" if conditions.n_samples else f"{conditions.n_chunks} chunks of text"
        session.reporter.info(f"best: up to {most} files to measure, each on {data} or some of them; they are kept")

    def whole(self, plan: Plan) -> Figures:
        """Measure a plan on all questions."""
        if self._candidates.holds(plan.tensor_types):
            point = self._counted(plan, lambda: self._meter.race(plan, lambda: self._sources(plan), Aim()))
        else:
            point = self._counted(plan, lambda: self._meter.written(plan))
        assert point.figures
        return point.figures

    def types(self, types: Types, aim: Aim) -> Measurement:
        """Measure a choice of types as far as is asked for."""
        plan, rival = self._plan(types), self._plan(aim.to_beat) if aim.to_beat else None
        return self._counted(plan, lambda: self._meter.race(plan, lambda: self._sources(plan), aim, rival)).measurement

    @property
    def n_positions(self) -> int:
        """How many positions the measured figures are from."""
        return sum(self._positions.values())

    @property
    def n_saved(self) -> int:
        """How many more it would have been on all questions."""
        return max(self._positions.values()) * len(self._positions) - self.n_positions

    def _counted(self, plan: Plan, measure: Callable[[], RacedFile]) -> RacedFile:
        started, reporter = time.monotonic(), self._session.reporter
        point, key = measure(), hash_of(dict(plan.tensor_types))
        is_new = key not in self._positions
        self._positions[key] = point.n_positions
        n_files = len(self._positions)
        if is_new and n_files == 2:  # the first measured the 16-bit file too
            each = time.monotonic() - started
            reporter.info(f"a file takes {each:.0f} s: at most {max(1, round(each * self._most / 60))} min in total")
        reporter.progress("files measured", n_files, self._most)
        return point

    def _plan(self, types: Types) -> Plan:
        return variants.plan_of(self._session.spec, self._candidates.as_types(types), "best")

    def _sources(self, plan: Plan) -> list[Path]:
        return variants.make(self._session, self._candidates, plan.tensor_types)


def measured_kld(figures: Figures, meter: Meter) -> MeasuredKld:
    """Return what plan.json says about a measured file."""
    kld = figures.metrics.divergence
    return MeasuredKld(kld.mean, kld.low, kld.high, meter.conditions())


def _label(spec: ModelSpec, plan: Plan, ranking: str | None = None) -> Plan:
    """The same types in a file that is called as this run's are."""
    return variants.plan_of(spec, plan.tensor_types, ranking or plan.ranking)


def _rivals(spec: ModelSpec, profile: Profile | None, candidates: Candidates, most_bytes: int) -> dict[str, Plan]:
    """What is to be beaten: the largest uniform file that fits, the largest of those that the variants can make, and
    LUQ's of the same bytes, which needs a profile."""
    fit = list(_uniform(spec, most_bytes).items())
    inside = [(name, plan) for name, plan in fit if candidates.as_choice(plan.tensor_types)]
    rivals = dict([*fit[:1], *inside[:N_UNIFORM_STARTS]])
    if profile is None:
        return rivals
    try:
        order = orders.rank(profile.layers, "entropy")
        plan = two_type_plan.make_plan(spec.tensors, order, Budget(n_bytes=most_bytes), "entropy")
        rivals[f"LUQ, {len(plan.low_layers)} low"] = plan
    except BudgetError:  # not even all layers low are as small
        pass
    return rivals


def _uniform(spec: ModelSpec, most_bytes: int) -> dict[str, Plan]:
    """The uniform files that fit, the largest first."""
    plans = {uniform.name_of(ftype): variants.uniform_plan(spec, ftype) for ftype in uniform.FTYPES}
    fit = [name for name, plan in plans.items() if plan.predicted_file_bytes <= most_bytes]
    return {name: plans[name] for name in sorted(fit, key=lambda name: -plans[name].predicted_file_bytes)}


def largest_uniform(spec: ModelSpec, meter: Meter, most_bytes: int) -> tuple[ComparedFile, ...]:
    """Measure the largest uniform file at the same size."""
    largest = list(_uniform(spec, most_bytes).items())[:1]
    return tuple(_compared(name, meter.quantized(plan)) for name, plan in largest)


def _compared(name: str, figures: Figures) -> ComparedFile:
    kld = figures.metrics.divergence
    return ComparedFile(name, figures.n_bytes, kld.mean, kld.low, kld.high)


def _predicted(result: SearchResult, space: SearchSpace, most_bytes: int, measure: _PlanMeter) -> PredictedKld:
    return PredictedKld(
        value=result.predicted,
        error=result.predicted_error,
        of_all_types_within_budget=LowestKld(result.estimate, result.bound),
        files_measured=len(result.measured),
        swaps_measured=result.n_swaps,
        swaps_that_helped=result.n_helped,
        budget_left_bytes=most_bytes - space.file_bytes(result.types),
        positions_measured=measure.n_positions,
        positions_saved=measure.n_saved,
    )


def _kld(figures: Figures) -> float:
    return figures.metrics.divergence.mean
