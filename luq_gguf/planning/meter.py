"""Measures choices of layers and of types as files, against the 16-bit one.

Every choice of layers is spliced from the variants of all layers low and none, into the file of the choice before,
and measured; its figures are kept under a key of all that they depend on, so what was measured once is not measured
again. The file lies where a run folder keeps what is half-written, so that it ends with the run, however that ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as cache_of
from functools import cached_property
from pathlib import Path

import numpy as np
from msgspec import UNSET, UnsetType

from luq_gguf.core import atomic, question_scores
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.json_value import JsonValue, given
from luq_gguf.core.measurements import Figures, SharedCounts, SplitFigures
from luq_gguf.core.sweeps import MeterConditions
from luq_gguf.core.types import Budget, EvalData, Plan
from luq_gguf.evaluation import cache, noise_floor, pictures, scoring, splits
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation.logprobs import Case, measure_reference, race, read_noise_floor, reference_answers
from luq_gguf.evaluation.questions import QuestionSet, shared_with_calibration
from luq_gguf.evaluation.target import EvalTarget
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gguf.splice import Point
from luq_gguf.method import racing, two_type_plan
from luq_gguf.method.metrics import vqa
from luq_gguf.method.racing import Aim, Measurement
from luq_gguf.planning import variants
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.quantization.stage import make_f16, make_mmproj
from luq_gguf.run import durations, serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import Session

_HOW = 2  # in what form points are kept: those of other numbers are not read


@dataclass(frozen=True)
class WholeFile(JsonValue):
    """A file that was measured on all questions: its figures, and the sums of its divergence, in nats, over the
    positions of each different question (of each text, where there are no questions), and how many these are."""

    figures: Figures
    sums: tuple[float, ...]
    counts: tuple[int, ...]

    def in_order(self, order: Sequence[int]) -> np.ndarray:
        """Return the sums in another order of the questions."""
        return np.array(self.sums)[list(order)]


@dataclass(frozen=True)
class RacedFile:
    """What is known of a file's divergence, on how many positions, and its figures where these are all."""

    measurement: Measurement
    n_positions: int
    figures: Figures | None = None


class Meter:
    """Measures choices of low layers of one model on one set of data against its 16-bit file.

    The session's run folder has the importance matrix. `home` keeps what was measured, where that is another one.
    `with_splits`: figures of the set's splits are wanted, so what older versions measured without keeping scores is
    measured again if the set has any.
    """

    def __init__(
        self,
        session: Session,
        reference: EvalTarget,
        data: EvalData,
        metric: str,
        home: RunFolder | None = None,
        point: Point | None = None,
        *,
        with_splits: bool = False,
    ) -> None:
        self._session, self._reference, self._data, self._metric = session, reference, data, metric
        self._run, self._spec, self._home = session.run, session.spec, home or session.run
        self._work = self._home.work / "eval"
        self._points = self._home.work / "points"
        self._with_splits = with_splits
        self._whole: dict[str, WholeFile] = {}
        self._splits: dict[str, Mapping[str, SplitFigures] | UnsetType] = {}  # by the scores of a file
        self._files = self._home.work / f"points{atomic.SUFFIX}"
        for folder in (self._work, self._points, self._files):
            folder.mkdir(exist_ok=True)
        self._point = point or Point(self._files / "point.gguf")

    def with_importance_of(self, session: Session) -> Meter:
        """Return a meter that measures files quantized with another run folder's importance matrix."""
        shared = (self._reference, self._data, self._metric, self._home, self._point)
        return Meter(session, *shared, with_splits=self._with_splits)

    def close(self) -> None:
        """Remove the file of the last choice, where its room is wanted; what is measured later is written whole."""
        self._point.remove()

    @cached_property
    def _variants(self) -> tuple[Path, Path]:
        return quantization_stage.make_layer_variants(self._session)

    def plan(self, layers: Iterable[int]) -> Plan:
        """Return the plan with these layers low."""
        chosen = sorted(layers)
        order = [*chosen, *(n for n in range(self._spec.tensors.n_layers) if n not in set(chosen))]
        return two_type_plan.make_plan(self._spec.tensors, order, Budget(low_layers=len(chosen)), "sweep")

    def low(self, layers: Iterable[int]) -> Figures:
        """Measure the file with these layers low."""
        plan = self.plan(layers)
        bits = two_type_plan.layer_bits(self._spec.tensors, plan.low_layers)
        return replace(self.spliced(plan, self._variants[::-1]), average_bits=bits)

    def kld(self, layers: Iterable[int]) -> float:
        """Return the mean KL divergence of the file with these layers low, in nats."""
        return self.low(layers).metrics.divergence.mean

    def spliced(self, plan: Plan, sources: Sequence[Path]) -> Figures:
        """Measure a file that is spliced from the tensors of others."""
        return _figures(self.race(plan, lambda: sources, Aim()))

    def uniform(self, ftype: str) -> Figures:
        """Measure llama-quantize's own file of a file type, with the same importance matrix."""
        plan = variants.uniform_plan(self._spec, ftype)
        return replace(self.quantized(plan), average_bits=variants.layer_bits(self._spec, plan))

    def quantized(self, plan: Plan) -> Figures:
        """Measure the file that llama-quantize writes for a plan."""
        return _figures(self.written(plan))

    def written(self, plan: Plan) -> RacedFile:
        """Measure the file that llama-quantize writes for a plan, with its positions."""
        path = self._files / "uniform.gguf"

        def make() -> None:
            self.close()
            quantization_stage.quantize_plan(self._session, plan, path)

        measured = self._raced(plan, path, make, Aim())
        path.unlink(missing_ok=True)
        return measured

    def race(self, plan: Plan, sources: Callable[[], Sequence[Path]], aim: Aim, rival: Plan | None = None) -> RacedFile:
        """Measure a file that is spliced from others on as many questions as an aim asks for, beside a `rival` that was
        measured on all of them."""

        def make() -> None:
            self._point.become(sources(), plan.tensor_types)

        return self._raced(plan, self._point.path, make, aim, rival)

    def sixteen_bit(self) -> Figures:
        """Measure the reference itself."""
        evaluated = evaluation.evaluate(self._reference, self._reference, self._data, self._work, metric=self._metric)
        file, n_bytes = self._spec.file, shards.n_bytes(self._reference.model)
        bits = file.bpw if file else 16.0
        return self._by_split(Figures(n_bytes, bits, evaluated.result.metrics, average_bits=bits))

    def conditions(self) -> MeterConditions:
        """Return what all points share."""
        return MeterConditions(
            reference=self._reference.model.name,
            data=self._data.name,
            data_sha256=self._data.sha256,
            n_samples=len(self._data.samples),
            n_chunks=len(self._data.chunks),
            metric=self._metric,
            max_tokens=self._reference.max_tokens,
            low=self._spec.tensors.low,
            high=self._spec.tensors.high,
            **vars(self._shared),
        )

    @cached_property
    def _shared(self) -> SharedCounts:
        return shared_with_calibration(self._home, self._data.samples)

    def _raced(
        self, plan: Plan, path: Path, make: Callable[[], object], aim: Aim, rival: Plan | None = None
    ) -> RacedFile:
        key = self._key(plan)
        cached, folder = self._points / f"{key}.json", self._points / key
        beaten = self._whole.get(self._key(rival)) if rival else next(iter(self._whole.values()), None)
        rival_sums = beaten.in_order(self._order) if beaten and aim != Aim() else None
        if (kept := self._kept(cached)) is not None:
            whole = kept
            measured = [] if rival_sums is None else _as_raced(whole.in_order(self._order), rival_sums, aim)
        else:
            make = cache_of(make)  # once, and only if something is to be measured
            target = replace(self._reference, model=path, made_of=key)

            def goes_on(cases: Sequence[Case]) -> bool:
                return rival_sums is None or racing.goes_on([sum_of(case) for case in cases], rival_sums, aim)

            reference = measure_reference(self._reference, self._data, self._work)
            order = self._names if rival_sums is None else [self._names[number] for number in self._order]
            with self._run.timed(durations.MEASURE):
                cases = race(target, self._data, reference, self._work, folder, order, goes_on, make)
            measured = [sum_of(case) for case in cases]
            if rival_sums is None or len(measured) == len(self._names):
                make()
                whole = self._finished(plan, target, folder)
                serialization.write_json(cached, whole.to_json())
                shutil.rmtree(folder)
        if beaten and rival_sums is not None and len(measured) < len(self._names):
            total = racing.estimate(measured, rival_sums)
            n_positions = sum(beaten.counts[number] for number in self._order[: len(measured)])
            return RacedFile(replace(total, kld=total.kld / sum(beaten.counts)), n_positions)
        self._whole[key] = whole
        figures = self._by_split(whole.figures)
        return RacedFile(Measurement(figures.metrics.divergence.mean), sum(whole.counts), figures)

    def _kept(self, path: Path) -> WholeFile | None:
        """A file that was measured before; None where it was not, or without the scores that splits are wanted of."""
        if not path.exists():
            return None
        whole = serialization.read_value(path, WholeFile, "sweep")
        metrics = whole.figures.metrics
        lacks_scores = metrics.accuracy is not None and given(metrics.scores) is None
        return None if lacks_scores and self._with_splits and self._data.splits else whole

    def _by_split(self, figures: Figures) -> Figures:
        """Figures with those of the set's splits as it has them now, which are no part of what is measured."""
        scores = given(figures.metrics.scores) if self._data.splits else None
        if scores is not None and scores not in self._splits:  # the same file is asked for in several orders
            ours = np.array(question_scores.unpacked(scores))
            self._splits[scores] = splits.by_split(self._data, self._chosen, ours, self._reference_scores)
        found = UNSET if scores is None else self._splits[scores]
        return replace(figures, metrics=replace(figures.metrics, splits=found))

    @cached_property
    def _chosen(self) -> tuple[str | None, ...] | None:
        return scoring.choose_metrics(self._metric, self._data.samples)

    @cached_property
    def _reference_scores(self) -> np.ndarray | None:
        folder = measure_reference(self._reference, self._data, self._work)
        return scoring.scores(reference_answers(folder, self._data), self._data, self._chosen)

    def _finished(self, plan: Plan, target: EvalTarget, folder: Path) -> WholeFile:
        """What is known of a file that was measured on all questions; on texts too, where the data have both."""
        everything = [name for part in cache.names(self._data) for name in part]
        reference = measure_reference(self._reference, self._data, self._work)
        cases = race(target, self._data, reference, self._work, folder, everything)
        evaluated = evaluation.evaluate(
            target,
            self._reference,
            self._data,
            self._work,
            metric=self._metric,
            cases=cases,
            floor=read_noise_floor(target, self._data, folder),
        )
        main = [case for case in cases if case.name in set(self._names)]
        metrics = replace(evaluated.result.metrics, splits=UNSET)
        figures = Figures(target.model.stat().st_size, plan.bpw, metrics)
        counts = tuple(0 if case.kld is None else len(case.kld) for case in main)
        return WholeFile(figures, tuple(sum_of(case) for case in main), counts)

    @cached_property
    def _names(self) -> list[str]:
        """The names of the cases that a mean divergence is over."""
        return list(evaluation.main_cases(self._data))

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The order of these cases in races: by the files that were measured on all of them before the first race."""
        return racing.order(np.array([whole.sums for whole in self._whole.values()]))

    def _key(self, plan: Plan) -> str:
        """The reference's contents stand for the checkpoint's."""
        imatrix = content_of(self._session.imatrix)
        made_by = (imatrix, dict(plan.tensor_types), plan.high, tools.identity(self._spec.llama))
        return hash_of(
            _HOW, self._data.sha256, self._metric, vqa.RULES, noise_floor.HOW, self._reference.key(), made_by
        )


def _as_raced(sums: np.ndarray, rival: np.ndarray, aim: Aim) -> list[float]:
    """What a race would have measured of a file: the same search finds the same, whatever was measured since."""
    measured: list[float] = []
    while racing.goes_on(measured, rival, aim):
        measured.append(float(sums[len(measured)]))
    return measured


def _figures(measured: RacedFile) -> Figures:
    assert measured.figures  # of all questions
    return measured.figures


def sum_of(case: Case) -> float:
    """Return the divergence of a case, summed over its positions, in nats."""
    return 0.0 if case.kld is None else float(case.kld.sum(dtype=np.float64))


def make_meter(session: Session, questions: QuestionSet, *, with_splits: bool = False) -> Callable[[], Meter]:
    """Return a function that makes the meter: the 16-bit files, the two variants that layers are spliced from, and the
    questions."""

    def make() -> Meter:
        f16 = make_f16(session)
        data = questions.read(f16, session.run.work / "eval" / "images")
        scoring.tell_repeated(data, session.reporter)
        mmproj = make_mmproj(session) if any(sample.images for sample in data.samples) else None
        if mmproj:
            pictures.check(mmproj, data.samples)
        if data.samples:
            questions.check_context(f16, mmproj, data.samples)
        reference = EvalTarget(
            f16,
            mmproj,
            session.options.threads,
            questions.n_ctx,
            max_tokens=questions.max_tokens,
            answers=questions.metric != "none",
        )
        meter = Meter(session, reference, data, questions.metric, with_splits=with_splits)
        if caveat := meter.conditions().caveat:
            session.reporter.info(caveat)
        return meter

    return make
