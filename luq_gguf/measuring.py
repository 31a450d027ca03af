"""Plans that files are measured for: layers ranked by divergence, and bounds on quality."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from luq_gguf import evaluation, quality, ranking
from luq_gguf import sweep as sweeping
from luq_gguf.door import Door, Listener
from luq_gguf.errors import EvaluationError
from luq_gguf.expectations import Target
from luq_gguf.files import make_f16, make_mmproj
from luq_gguf.hf import calibration
from luq_gguf.predicting import Predictor
from luq_gguf.run_folder import RunFolder
from luq_gguf.stages import make_plan
from luq_gguf.values import Budget, EvalData, Plan, Profile


@dataclass(frozen=True)
class QuestionSet:
    """What to measure files on: questions (`source`), a text, or both."""

    source: str | None = None
    text: Path | None = None
    metric: str = "auto"
    samples: int | None = None
    chunks: int = 32
    max_tokens: int = 32
    n_ctx: int = 4096
    seed: int = 0

    def read(self, model: Path, cache: Path) -> EvalData:
        return evaluation.read_data(
            self.source,
            self.text,
            model,
            n_samples=self.samples,
            n_chunks=self.chunks,
            seed=self.seed,
            cache=cache,
        )


def make_meter(
    run: RunFolder, door: Door, questions: QuestionSet, threads: int | None, listener: Listener
) -> Callable[[], sweeping.Meter]:
    """Makes what measures choices of low layers: the 16-bit files, the layer bank, the questions."""

    def make() -> sweeping.Meter:
        f16 = make_f16(run, door, listener)
        data = questions.read(f16, run.work / "eval" / "images")
        mmproj = make_mmproj(run, door, listener) if any(sample.image for sample in data.samples) else None
        reference = Target(f16, mmproj, threads, questions.n_ctx, max_tokens=questions.max_tokens)
        return sweeping.Meter(run, door, reference, data, questions.metric, threads, listener)

    return make


def measured_plan(
    run: RunFolder,
    door: Door,
    profiled: Profile,
    budget: Budget,
    rule: str,
    seed: int,
    make_meter: Callable[[], sweeping.Meter],
    predictor: Predictor | None,
    listener: Listener,
) -> Plan:
    """The plan; where the order or the budget asks for it, files are measured first."""
    if rule != "kld" and not budget.is_quality:
        return make_plan(run, door, budget, rule=rule, seed=seed, predictor=predictor)
    meter, n_layers = make_meter(), door.tensors.n_layers
    if rule == "kld":
        order = sweeping.order_by_kld(meter, n_layers, _counter(listener, "layers, each alone low", n_layers))
    else:
        order = ranking.rank(profiled.layers, rule, seed)
    noted: dict[str, object] = {"measured_on": meter.conditions()}
    if budget.is_quality:
        tick = _counter(listener, "numbers of low layers", n_layers + 1)

        def measure(count: int) -> float:
            figure = quality.figure_of(budget, meter.low(order[:count])["metrics"])
            tick()
            return figure

        count, tried = quality.most_low_layers(budget, n_layers, measure)
        noted |= {k: v for k, v in vars(budget).items() if v is not None}
        noted["tried"] = [vars(one) for one in tried]
        budget = Budget(low_layers=count)
    return make_plan(run, door, budget, rule=rule, seed=seed, order=order, measured=noted, predictor=predictor)


def _counter(listener: Listener, what: str, total: int) -> Callable[[], None]:
    done = itertools.count(1)
    return lambda: listener.progress(what, next(done), total)


def check_questions(budget: Budget, rule: str, questions: QuestionSet, run: RunFolder) -> None:
    """Refuse, before anything heavy, data that an order or a budget could not be measured on."""
    if rule != "kld" and not budget.is_quality:
        return
    if questions.source is None:
        raise EvaluationError(
            "--max-kld, --min-accuracy and --rank kld are measured on questions, and none were given.",
            "Give --eval SET: a .jsonl, a folder of images, or a Hub dataset id.",
        )
    samples = calibration.read_questions(
        questions.source, questions.samples, questions.seed, run.work / "eval" / "images"
    )
    evaluation.choose_metric("exact" if budget.min_accuracy is not None else questions.metric, samples)
