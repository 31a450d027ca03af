"""Estimates whether llama-quantize's own file at the same size is better than a plan that was not measured."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from luq_gguf.core.errors import ConversionError
from luq_gguf.core.hashing import hash_of
from luq_gguf.core.plan_quality import UniformBaseline
from luq_gguf.core.types import Plan
from luq_gguf.core.units import format_size
from luq_gguf.llamacpp import quantize, sampled_errors
from luq_gguf.llamacpp.gguf import quant_error
from luq_gguf.method import uniform
from luq_gguf.planning import variants
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.session import Session

_MIXES = "with importance"  # of the uniform files: version 0.1.0 compared with mixes that llama-quantize makes without


Baselines = list[UniformBaseline | None]


@contextmanager
def comparing(session: Session, plans: Sequence[Plan]) -> Iterator[Callable[[], Baselines]]:
    """Estimate, beside what else is done in this context, the largest uniform file that fits for each plan; yield a
    function that waits for them. None where no file fits, or errors cannot be computed.

    They come from a few rows of each matrix, weighed by importance: estimates, kept in the run folder. Those of several
    plans are computed together, as the tables of the smallest types alone take seconds.
    """
    run, how = session.run, (quant_error.HOW, sampled_errors.ROWS, _MIXES)
    keys = [hash_of(quantization_stage.quantized_key(run, session.spec, plan), how) for plan in plans]
    names = [f".work/foreseen/{key}.json" for key in keys]
    new = [number for number, name in enumerate(names) if not run.file(name).exists()]  # others: of an earlier run
    with _computing(session, [plans[number] for number in new]) as wait:

        def make() -> None:
            run.file(names[0]).parent.mkdir(exist_ok=True)
            for number, baseline in zip(new, wait(), strict=True):
                serialization.write_json(run.file(names[number]), baseline and baseline.to_json())

        def finish() -> Baselines:
            if names:
                run.run_stage("foreseen", hash_of(keys), names, make)
            contents = [serialization.read_json(run.file(name), "convert") for name in names]
            return [
                None if content is None else serialization.read_value(run.file(name), UniformBaseline, "convert")
                for content, name in zip(contents, names, strict=True)
            ]

        yield finish


@contextmanager
def _computing(session: Session, plans: Sequence[Plan]) -> Iterator[Callable[[], Baselines]]:
    spec, reporter = session.spec, session.reporter
    uniform_plans = {ftype: variants.uniform_plan(spec, ftype) for ftype in uniform.FTYPES} if plans else {}
    sizes = [plan.predicted_file_bytes for plan in uniform_plans.values()]  # they ascend
    fitting = [bisect.bisect_right(sizes, plan.predicted_file_bytes) for plan in plans]
    baselines = [uniform.FTYPES[number - 1] if number else None for number in fitting]
    compared = [(plan, uniform_plans[ftype]) for plan, ftype in zip(plans, baselines, strict=True) if ftype]
    if not compared:
        yield lambda: [None] * len(plans)
        return
    matrices = quantize.overrides(spec.source, compared[0][0])
    types = {name: {either.tensor_types[name] for pair in compared for either in pair} for name in matrices}
    f16 = quantization_stage.make_f16(session)
    reporter.info("comparing with uniform files at the same size, on a few rows of each matrix")
    with sampled_errors.computing(f16, session.imatrix, types) as wait:

        def finish() -> Baselines:
            try:
                errors = wait()
            except ConversionError as error:  # of a type that cannot be read back: a conversion does not fail for it
                reporter.info(f"the files could not be compared: {error.message}")
                return [None] * len(plans)

            def error_sum(plan: Plan) -> float:
                return sum(errors[name][plan.tensor_types[name]] for name in matrices)

            estimates = iter(
                UniformBaseline(uniform.name_of(ftype), other.predicted_file_bytes, error_sum(other), error_sum(plan))
                for (plan, other), ftype in zip(compared, filter(None, baselines), strict=True)
            )
            return [next(estimates) if ftype else None for ftype in baselines]

        yield finish


def line(baseline: UniformBaseline | None) -> str | None:
    """Return a sentence where the uniform file is expected to be better."""
    if baseline is None or baseline.error_sum >= baseline.error_sum_of_plan:
        return None
    share = baseline.error_sum / baseline.error_sum_of_plan
    return (
        f"predicted, not measured: llama-quantize's {uniform.ftype_of(baseline.name)} file "
        f"({format_size(baseline.file_bytes)}) has {share:.2f} times the output errors of this file's matrices; "
        "--plan best --eval SET searches for the best types at this size"
    )
