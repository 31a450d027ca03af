"""The plan stage: it refuses impossible requests before anything heavy, and makes plans that files are measured for."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from luq_gguf.benchmarking.predict import Predictor, predictor, tps_of
from luq_gguf.core.errors import BudgetError
from luq_gguf.core.memory_use import ContextShape
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.sweeps import Sweep, SweepPoint
from luq_gguf.core.types import NAMED, Budget, Plan, Profile
from luq_gguf.evaluation.questions import QuestionSet, check_questions
from luq_gguf.hf.processor import PictureCheck
from luq_gguf.method import orders, quality_bound, two_type_plan
from luq_gguf.method.uniform import is_uniform
from luq_gguf.planning import foretold, memory_budget, unprofiled, variants
from luq_gguf.planning import mixed_precision as mixed_precision_planning
from luq_gguf.planning.memory_budget import MemoryRoom
from luq_gguf.planning.meter import Meter, make_meter
from luq_gguf.planning.mixed_precision import BestRequest, Choices
from luq_gguf.planning.ordered import ordered_plan, save_plan
from luq_gguf.quantization.stage import make_mmproj
from luq_gguf.run import serialization
from luq_gguf.run.preflight import ModelSpec
from luq_gguf.run.session import Session

SEARCHED, SEARCHED_LARGE = 64, 8  # questions of a larger set that the best plan is searched with, the second for a
# large model: its search should take no longer than its variants
SEARCHED_TOKENS = 8  # of an answer: a longer one costs its decoding in every file


@dataclass(frozen=True)
class PlanRequest:
    """A request for a plan: how far to go, by an order of layers (`rule`) or with the best types (`best`), and between
    which two types.

    `questions` are what files are measured on where the plan asks for that. `predict_speed`: speeds of types that are
    not known are measured, although no budget needs them. `context` is what a budget of memory counts. `rules`: what
    the plan must obey beside its budget. `imatrix`: another publisher's file with the importance. Raises BudgetError
    where the parts do not go together.
    """

    budget: Budget
    rule: str = "entropy"
    seed: int = 0
    best: BestRequest | None = None
    questions: QuestionSet = field(default_factory=QuestionSet)
    low: str = "IQ1_M"
    high: str = "Q4_K_M"
    predict_speed: bool = False
    context: ContextShape = field(default_factory=partial(ContextShape, 4096))
    rules: PlanRules = field(default_factory=PlanRules)
    imatrix: Path | None = None

    def __post_init__(self) -> None:
        if self.rule not in orders.ORDERS:
            raise BudgetError(f"There is no order of layers named {self.rule}.", f"Give {', '.join(orders.ORDERS)}.")
        if self.best and self.rule != "entropy":
            raise BudgetError(
                f"--rank {self.rule} orders layers for --plan luq; --plan best chooses types without an order.",
                "Leave one of them out.",
            )
        _check_budget(self.budget, best=self.best is not None)

    @property
    def measures(self) -> bool:
        """Return whether files are measured for it."""
        return self.best is not None or self.rule in orders.MEASURED or self.budget.is_quality

    @property
    def needs_f16(self) -> bool:
        """Return whether the 16-bit file is needed for it: to measure files, or to quantize rows."""
        return self.measures or self.rule in orders.FORETOLD


def _check_budget(budget: Budget, *, best: bool) -> None:
    """Exactly one of the seven; for the best plan a size, and with it a speed if wanted. Raises BudgetError."""
    given = [value for value in vars(budget).values() if value is not None]
    for value in given:
        if not math.isfinite(value):
            raise BudgetError(f"A budget of {value} is not a finite number.", "Give a number.")
    if best:
        sizes = sum(size is not None for size in (budget.n_bytes, budget.bpw, budget.memory_bytes))
        if sizes != 1 or len(given) != sizes + (budget.decode_tps is not None):
            raise BudgetError(
                "--plan best needs a size.",
                "Give --target-size 3.4GiB, --target-bpw 3.7 or --target-memory 8GiB, optionally with --target-tps X, "
                "and no other budget.",
            )
        return
    if len(given) != 1:
        problem = "No budget was given." if not given else "More than one budget was given."
        raise BudgetError(
            problem,
            "Give exactly one of --low-layers N, --target-size 3.4GiB, --target-bpw 3.7, --target-memory 8GiB, "
            "--target-tps X, --max-kld X or --min-accuracy A.",
        )


@dataclass(frozen=True)
class PlanInputs:
    """A request that can be met, with what the preflight learnt: speeds, where they matter, the best plan's choices,
    and what a budget of memory leaves for the file, which is the request's budget then. `named` is the order of layers
    where the user has named them in place of a profile."""

    request: PlanRequest
    predictor: Predictor | None
    choices: Choices | None = None
    room: MemoryRoom | None = None
    named: tuple[int, ...] | None = None

    @property
    def rule(self) -> str:
        """Return the rule of the order."""
        return NAMED if self.named else self.request.rule

    @property
    def counted(self) -> dict[str, object]:
        """Return what a budget of memory has counted."""
        return self.room.content() if self.room else {}


def prepare(session: Session, request: PlanRequest, *, profiled: bool = True) -> PlanInputs:
    """Raise, before the profile, which takes hours, where no plan is possible: BudgetError, EvaluationError.
    `profiled`: whether there is or will be one."""
    spec, budget, room, named = session.spec, request.budget, None, None
    if request.rule in orders.FORETOLD:
        foretold.check(session, request.rule, profiled=profiled)
    if not profiled and not request.best:
        named = unprofiled.named_order(session, request.rules, request.rule)
    if budget.memory_bytes is not None:
        room = memory_budget.measure(session, budget.memory_bytes, request.context)
        if not request.best:
            room.check(spec.tensors)
        budget = room.budget(budget)
        request = replace(request, budget=budget)
    if request.measures:
        picture_check = None if spec.file else PictureCheck(spec.checkpoint)
        check_questions(budget, request.questions, session.run, picture_check)
    if not request.best:
        two_type_plan.check_budget(spec.tensors, budget)
    if request.measures:
        _check_context(session, measured_on(request, spec))
    speeds = predictor(session, required=budget.decode_tps is not None, wanted=request.predict_speed)
    if request.best:
        choices = mixed_precision_planning.choices(
            session,
            budget,
            request.best,
            refusal=room.refusal if room else None,
        )
        return PlanInputs(request, speeds, choices, room)
    if budget.decode_tps is not None:
        two_type_plan.low_layer_count(spec.tensors, range(spec.tensors.n_layers), budget, tps_of(speeds))
    return PlanInputs(request, speeds, room=room, named=named)


def measured_on(request: PlanRequest, spec: ModelSpec) -> QuestionSet:
    """What files are measured on: for the best plan, which measures many, few questions and divergence alone."""
    if not request.best:
        return request.questions
    most = SEARCHED if spec.tensors.n_weights < mixed_precision_planning.LARGE else SEARCHED_LARGE
    samples = request.questions.samples or most
    return replace(request.questions, samples=samples, max_tokens=SEARCHED_TOKENS, metric="none")


def _check_context(session: Session, questions: QuestionSet) -> None:
    """By the vocabulary of the header-only GGUF; images need the vision half, which is written anyway."""
    samples = questions.drawn(session.run.work / "eval" / "images")
    mmproj = make_mmproj(session) if any(sample.images for sample in samples) else None
    questions.check_context(session.spec.source.path, mmproj, samples)


def make(session: Session, profile: Profile | None, prepared: PlanInputs) -> Plan:
    """Make and write the plan; where the order, the budget or the types need it, files are measured first. Without a
    profile (of a GGUF file) layers are taken as they are named or measured."""
    request, speeds = prepared.request, prepared.predictor
    if not request.measures:
        return save_plan(session, unmeasured(session, profile, prepared), speeds)
    budget, spec, counted, rule = request.budget, session.spec, prepared.counted, prepared.rule
    if request.best and prepared.choices:
        metering = make_meter(session, measured_on(request, spec))
        plan = mixed_precision_planning.best_plan(
            session, profile, request.best, prepared.choices, metering, request.seed
        )
        return save_plan(session, replace(plan, budget={**plan.budget, **counted}), speeds)
    meter = make_meter(session, request.questions)()
    if rule in orders.MEASURED:
        order = measured_order(session, profile, request, meter, speeds)
    else:
        named = _named(session, profile, prepared)
        order = named or orders.rank(unprofiled.layers_of(spec, profile), rule, request.seed)
    noted: dict[str, object] = counted | {"measured_on": meter.conditions().to_json()}
    if budget.is_quality:
        free = two_type_plan.may_be_low(spec.tensors, order)
        layer_budget, tried = _within_quality(budget, free, meter, session.reporter)
        budget, noted = layer_budget, noted | tried
    plan = ordered_plan(session, profile, budget, rule=rule, order=order, measured=noted, predictor=speeds)
    plan = _with_figures(session, plan, meter)
    meter.close()
    return save_plan(session, plan, speeds)


def unmeasured(session: Session, profile: Profile | None, prepared: PlanInputs) -> Plan:
    """Return the plan of a request that no file has to be measured for."""
    request = prepared.request
    return ordered_plan(
        session,
        profile,
        request.budget,
        rule=prepared.rule,
        seed=request.seed,
        order=_named(session, profile, prepared),
        measured=prepared.counted,
        predictor=prepared.predictor,
    )


def _named(session: Session, profile: Profile | None, prepared: PlanInputs) -> tuple[int, ...] | None:
    """The order of layers where it does not follow from the profile: as the user has named them, or foretold."""
    request = prepared.request
    if prepared.rule in orders.FORETOLD:
        return foretold.order(session, profile, prepared.rule, request.seed)
    return prepared.named


def _within_quality(
    budget: Budget, order: tuple[int, ...], meter: Meter, reporter: Reporter
) -> tuple[Budget, dict[str, object]]:
    """The number of low layers that a bound on quality allows, and what was tried."""
    tick = _counter(reporter, "numbers of low layers", len(order) + 1)

    def measure(count: int) -> float:
        figure = quality_bound.figure_of(budget, meter.low(order[:count]).metrics)
        tick()
        return figure

    count, tried = quality_bound.most_low_layers(budget, len(order), measure)
    content: dict[str, object] = {k: v for k, v in vars(budget).items() if v is not None}
    return Budget(low_layers=count), content | {"tried": [vars(attempt) for attempt in tried]}


def measured_order(
    session: Session, profile: Profile | None, request: PlanRequest, meter: Meter, predictor: Predictor | None
) -> tuple[int, ...]:
    """Return the layers in an order that files are measured for. An order that grows is measured as far as the budget
    needs it, or completely where only measuring can tell how far."""
    spec, reporter = session.spec, session.reporter
    order, budget = orders.ORDERS[request.rule], request.budget
    layers = [layer for layer in unprofiled.layers_of(spec, profile) if layer.layer not in spec.tensors.kept]
    n_layers = len(layers)
    assert order.n_files
    most = order.n_files(n_layers, n_layers)

    def enough(chosen: tuple[int, ...]) -> bool:
        met = order.grows and not budget.is_quality
        return met and two_type_plan.is_met(spec.tensors, chosen, budget, tps_of(predictor))

    if order.grows:
        front = orders.rank(layers, "entropy")
        about = next(n for n in range(n_layers + 1) if enough(front[:n]) or n == n_layers)
        most = order.n_files(n_layers, about)
        meter.low(())  # measures the 16-bit file too, where that is new
        started = time.monotonic()
        meter.low(front[:1])
        each = time.monotonic() - started
        reporter.info(
            f"{request.rule}: about {most} files to measure for {about} low layers, {each:.1f} s each: "
            f"{max(1, round(most * each / 60))} min; measurements are kept"
        )
    tick = _counter(reporter, order.counted, max(1, most))

    def measure(low: tuple[int, ...]) -> float:
        kld = meter.kld(low)
        tick()
        return kld

    ranked = order.all_layers(layers, request.seed, measure, enough)
    return (*ranked, *sorted(spec.tensors.kept))


def add_best_points(session: Session, profile: Profile | None, meter: Meter, swept: Sweep) -> Sweep:
    """Add the best plans at the sizes of a sweep's uniform files to its points, and write sweep.json."""
    sizes = sorted({point.n_bytes for point in swept.points if is_uniform(point.order)})
    for n_bytes in sizes:
        budget, best = Budget(n_bytes=n_bytes), BestRequest()
        try:
            choices = mixed_precision_planning.choices(session, budget, best)
        except BudgetError:  # below what these types can do
            continue
        plan = mixed_precision_planning.best_plan(session, profile, best, choices, lambda: meter)
        if choices.candidates.as_choice(plan.tensor_types):
            figures = meter.spliced(plan, variants.make(session, choices.candidates, plan.tensor_types))
        else:
            figures = meter.quantized(plan)
        figures = replace(figures, average_bits=variants.layer_bits(session.spec, plan))
        point = SweepPoint.of("best", figures, budget_bytes=n_bytes)
        swept = replace(swept, points=(*swept.points, point))
        serialization.write_json(session.run.file("sweep.json"), swept.to_json())
    return swept


def _with_figures(session: Session, plan: Plan, meter: Meter) -> Plan:
    """Return the plan with what its file measures, and the largest uniform file at the same size."""
    measured = mixed_precision_planning.measured_kld(meter.low(plan.low_layers), meter)
    return replace(
        plan,
        measured_kld=measured,
        compared=mixed_precision_planning.largest_uniform(session.spec, meter, plan.predicted_file_bytes),
    )


def _counter(reporter: Reporter, what: str, total: int) -> Callable[[], None]:
    done = itertools.count(1)
    return lambda: reporter.progress(what, next(done), total)
