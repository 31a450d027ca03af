"""Estimates whether llama-quantize's own file at the same size is better than a plan that was not measured."""

from __future__ import annotations

import bisect

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


def estimate(session: Session, plan: Plan) -> UniformBaseline | None:
    """Return the largest uniform file that fits; None where none does, or errors cannot be computed.

    They come from a few rows of each matrix, weighed by importance: an estimate, kept in the run folder.
    """
    run, name = session.run, ".work/foreseen.json"
    how = (quant_error.HOW, sampled_errors.ROWS, _MIXES)
    key = hash_of(quantization_stage.quantized_key(run, session.spec, plan), how)

    def make() -> None:
        baseline = _compare(session, plan)
        serialization.write_json(run.file(name), baseline and baseline.to_json())

    run.run_stage("foreseen", key, [name], make)
    if serialization.read_json(run.file(name), "convert") is None:
        return None
    return serialization.read_value(run.file(name), UniformBaseline, "convert")


def _compare(session: Session, plan: Plan) -> UniformBaseline | None:
    spec, reporter = session.spec, session.reporter

    def size(ftype: str) -> int:  # the list ascends
        return variants.uniform_plan(spec, ftype).predicted_file_bytes

    fitting = bisect.bisect_right(uniform.FTYPES, plan.predicted_file_bytes, key=size)
    if not fitting:
        return None
    ftype = uniform.FTYPES[fitting - 1]
    baseline = variants.uniform_plan(spec, ftype)
    matrices = quantize.overrides(spec.source, plan)
    types = {name: {plan.tensor_types[name], baseline.tensor_types[name]} for name in matrices}
    f16 = quantization_stage.make_f16(session)
    reporter.info("comparing with uniform files at the same size, on a few rows of each matrix")
    try:
        errors = sampled_errors.sampled_errors(f16, session.imatrix, types)
    except ConversionError as error:  # of a type that cannot be read back: a conversion does not fail for a hint
        reporter.info(f"the files could not be compared: {error.message}")
        return None
    ours, theirs = (
        sum(errors[name][candidate.tensor_types[name]] for name in matrices) for candidate in (plan, baseline)
    )
    return UniformBaseline(uniform.name_of(ftype), baseline.predicted_file_bytes, theirs, ours)


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
