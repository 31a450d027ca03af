"""Makes the best plan: a type for every layer, or part of it, by measured KL divergence within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luq_gguf.benchmarking import type_benchmark
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
from luq_gguf.method.speed_model import SpeedTable
from luq_gguf.planning import foretold, variants
from luq_gguf.planning.meter import Meter
from luq_gguf.planning.variants import TYPES, Candidates
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

N_UNIFORM_STARTS = 3  # uniform files that the search begins with
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
    measured_speed: bool,
    measure: bool = False,
    refusal: Callable[[int, str], BudgetError] | None = None,
) -> Choices:
    """Return types and sizes. Raises BudgetError, naming the smallest possible file, where the budget is below it.

    `measured_speed`: whether types that are known to be slow here are left out, where none are named; with `measure`,
    what is not known is measured for that. `refusal` makes the error of the smallest file, in bytes and in words, where
    the size follows from another budget.
    """
    spec, reporter = session.spec, session.reporter
    kinds = tuple(reader.check_type(kind, "--types") for kind in request.types or TYPES)
    speeds = None
    if budget.decode_tps is not None or (measured_speed and request.types is None):
        geometry, threads = type_benchmark.Geometry(spec.source, spec.tensors), session.options.threads
        of = (geometry, threads or machine.cores())
        compared = sorted({*kinds, "Q4_K"})
        if measure or budget.decode_tps is not None:
            speeds = type_benchmark.measured_rates(*of, reporter, compared)
        else:
            speeds = type_benchmark.known_rates(*of, compared)
    if speeds and request.types is None:
        slow = [
            k
            for k in kinds
            if speeds.rates[k].decode_weights_per_second < USEFUL * speeds.rates["Q4_K"].decode_weights_per_second
        ]
        if slow:
            reporter.info(f"left out, slower than {USEFUL:g} times Q4_K's decode speed here: {', '.join(slow)}")
        kinds = tuple(kind for kind in kinds if kind not in slow)
    candidates = variants.candidates(spec, kinds, by_tensor=request.by_tensor)
    chosen = Choices(candidates, budget, speeds if budget.decode_tps is not None else None, request.by_tensor)
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
    variant_files = variants.make(session, chosen.candidates)
    space = _space(session, profile, chosen, variant_files)
    meter = make_meter()
    rivals = _rivals(spec, profile, chosen.candidates, most)
    measure = _PlanMeter(
        meter, variant_files, mixed_precision.most_files(space, most, request.swaps, len(rivals)), reporter
    )
    starts: list[Types] = []
    rival_figures: dict[str, Figures] = {}
    for name, plan in rivals.items():
        types = chosen.candidates.as_choice(plan.tensor_types)
        starts += [types] if types else []
        rival_figures[name] = measure(_label(spec, plan), spliced=chosen.candidates.holds(plan.tensor_types))

    def kld_of(types: Types) -> float:
        return _kld(measure(variants.plan_of(spec, chosen.candidates.as_types(types), "best")))

    def enough() -> bool:
        return request.minutes is not None and time.monotonic() - began > 60 * request.minutes

    slowest = None if budget.decode_tps is None else 1 / budget.decode_tps
    constraints = mixed_precision.Constraints(most, slowest, swaps=request.swaps, enough=enough)
    result = mixed_precision.search(space, constraints, kld_of, starts, seed)
    plan = variants.plan_of(spec, chosen.candidates.as_types(result.types), "best")
    figures = measure(plan)
    predicted: PredictedKld | None = _predicted(result, space, most)
    rival = min(rival_figures, key=lambda name: _kld(rival_figures[name]), default=None)
    may_win = slowest is None and rival is not None and chosen.candidates.obeys(rivals[rival].tensor_types)
    if may_win and rival and _kld(rival_figures[rival]) < result.kld:  # of types that the variants do not hold
        plan, figures, predicted = _label(spec, rivals[rival], "best"), rival_figures[rival], None
    budget_content: dict[str, object] = {key: value for key, value in vars(budget).items() if value is not None}
    budget_content |= {"types": list(chosen.candidates.kinds), "per": "tensor" if chosen.by_tensor else "layer"}
    return replace(
        plan,
        budget=budget_content,
        predicted_kld=predicted,
        measured_kld=measured_kld(figures, meter),
        compared=tuple(_compared(name, rival_figure) for name, rival_figure in rival_figures.items()),
    )


def _space(session: Session, profile: Profile | None, chosen: Choices, variant_files: Sequence[Path]) -> SearchSpace:
    """The search space: with the nats that types are foretold to cost, where gradients are to be had, else with the
    errors of the variants' files, whose cost is learned."""
    of_types = chosen.candidates.types
    costs = foretold.of_types(session, profile, {name: set(types) for name, types in of_types.items()})
    if costs is None:
        return chosen.space(session.spec, variants.errors_of(session, chosen.candidates, variant_files))
    errors = {
        name: [costs[name][kind] for kind in types[: len(chosen.candidates.kinds)]] for name, types in of_types.items()
    }
    return replace(chosen.space(session.spec, errors), prior=sensitivity.FORETOLD)


class _PlanMeter:
    """Measures plans, each once, and says after the first how long all will take."""

    def __init__(self, meter: Meter, variant_files: Sequence[Path], most: int, reporter: Reporter) -> None:
        self._meter, self._variants, self._most, self._reporter = meter, variant_files, most, reporter
        self._seen: set[str] = set()
        conditions = meter.conditions()
        data = f"{conditions.n_samples} questions" if conditions.n_samples else f"{conditions.n_chunks} chunks of text"
        reporter.info(f"best: up to {self._most} files to measure, each on {data}; measurements are kept")

    def __call__(self, plan: Plan, *, spliced: bool = True) -> Figures:
        started = time.monotonic()
        figures = self._meter.spliced(plan, self._variants) if spliced else self._meter.quantized(plan)
        self._seen.add(hash_of(dict(plan.tensor_types)))
        if len(self._seen) == 2:  # the first measured the 16-bit file too
            each = time.monotonic() - started
            self._reporter.info(
                f"a file takes {each:.0f} s: at most {max(1, round(each * self._most / 60))} min in total"
            )
        self._reporter.progress("files measured", len(self._seen), self._most)
        return figures


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


def _predicted(result: SearchResult, space: SearchSpace, most_bytes: int) -> PredictedKld:
    return PredictedKld(
        value=result.predicted,
        error=result.predicted_error,
        of_all_types_within_budget=LowestKld(result.estimate, result.bound),
        files_measured=len(result.measured),
        swaps_measured=result.n_swaps,
        swaps_that_helped=result.n_helped,
        budget_left_bytes=most_bytes - space.file_bytes(result.types),
    )


def _kld(figures: Figures) -> float:
    return figures.metrics.divergence.mean
