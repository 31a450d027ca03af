"""Measures choices of layers and of types as files, against the 16-bit one.

Every choice of layers is spliced from the variants of all layers low and none, into the file of the choice before,
and measured; its figures are kept under a key of all that they depend on, so what was measured once is not measured
again. The file lies where a run folder keeps what is half-written, so that it ends with the run, however that ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from luq_gguf.core import atomic
from luq_gguf.core.hashing import content_of, hash_of
from luq_gguf.core.measurements import Figures, SharedCounts
from luq_gguf.core.sweeps import MeterConditions
from luq_gguf.core.types import Budget, EvalData, Plan
from luq_gguf.evaluation import evaluate as evaluation
from luq_gguf.evaluation import noise_floor, pictures, scoring
from luq_gguf.evaluation.logprobs import EvalTarget
from luq_gguf.evaluation.questions import QuestionSet, shared_with_calibration
from luq_gguf.llamacpp import tools
from luq_gguf.llamacpp.gguf import shards
from luq_gguf.llamacpp.gguf.splice import Point
from luq_gguf.method import two_type_plan
from luq_gguf.method.metrics import vqa
from luq_gguf.planning import variants
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.quantization.stage import make_f16, make_mmproj
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import Session


class Meter:
    """Measures choices of low layers of one model on one set of data against its 16-bit file.

    The session's run folder has the importance matrix. `home` keeps what was measured, where that is another one.
    """

    def __init__(
        self,
        session: Session,
        reference: EvalTarget,
        data: EvalData,
        metric: str,
        home: RunFolder | None = None,
        point: Point | None = None,
    ) -> None:
        self._session, self._reference, self._data, self._metric = session, reference, data, metric
        self._run, self._spec, self._home = session.run, session.spec, home or session.run
        self._work = self._home.work / "eval"
        self._points = self._home.work / "points"
        self._files = self._home.work / f"points{atomic.SUFFIX}"
        for folder in (self._work, self._points, self._files):
            folder.mkdir(exist_ok=True)
        self._point = point or Point(self._files / "point.gguf")

    def with_importance_of(self, session: Session) -> Meter:
        """Return a meter that measures files quantized with another run folder's importance matrix."""
        return Meter(session, self._reference, self._data, self._metric, self._home, self._point)

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
        return self._measured(plan, self._point.path, lambda: self._point.become(sources, plan.tensor_types))

    def uniform(self, ftype: str) -> Figures:
        """Measure llama-quantize's own file of a file type, with the same importance matrix."""
        plan = variants.uniform_plan(self._spec, ftype)
        return replace(self.quantized(plan), average_bits=variants.layer_bits(self._spec, plan))

    def quantized(self, plan: Plan) -> Figures:
        """Measure the file that llama-quantize writes for a plan."""
        path = self._files / "uniform.gguf"

        def make() -> None:
            self.close()
            quantization_stage.quantize_plan(self._session, plan, path)

        figures = self._measured(plan, path, make)
        path.unlink(missing_ok=True)
        return figures

    def sixteen_bit(self) -> Figures:
        """Measure the reference itself."""
        evaluated = evaluation.evaluate(self._reference, self._reference, self._data, self._work, metric=self._metric)
        file, n_bytes = self._spec.file, shards.n_bytes(self._reference.model)
        bits = file.bpw if file else 16.0
        return Figures(n_bytes, bits, evaluated.result.metrics, average_bits=bits)

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

    def _key(self, plan: Plan) -> str:
        """The reference's contents stand for the checkpoint's."""
        imatrix = content_of(self._session.imatrix)
        made_by = (imatrix, dict(plan.tensor_types), plan.high, tools.identity(self._spec.llama))
        return hash_of(self._data.sha256, self._metric, vqa.RULES, noise_floor.HOW, self._reference.key(), made_by)

    def _measured(self, plan: Plan, path: Path, make: Callable[[], object]) -> Figures:
        key = self._key(plan)
        cached = self._points / f"{key}.json"
        if cached.exists():
            return serialization.read_value(cached, Figures, "sweep")
        make()
        target = replace(self._reference, model=path, made_of=key)
        scratch = self._points / "scratch"
        evaluated = evaluation.evaluate(
            target, self._reference, self._data, self._work, metric=self._metric, scratch=scratch
        )
        figures = Figures(path.stat().st_size, plan.bpw, evaluated.result.metrics)
        serialization.write_json(cached, figures.to_json())
        shutil.rmtree(scratch)
        return figures


def make_meter(session: Session, questions: QuestionSet) -> Callable[[], Meter]:
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
        meter = Meter(session, reference, data, questions.metric)
        if caveat := meter.conditions().caveat:
            session.reporter.info(caveat)
        return meter

    return make
