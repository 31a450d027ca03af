"""What a conversion has to do, in the work that `run.durations` knows: before it starts, by what is missing yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from luq_gguf.core.calibration_set import CalibrationSet
from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget, Plan
from luq_gguf.method import mixed_precision, orders, two_type_plan
from luq_gguf.planning.stage import PlanInputs, measured_on
from luq_gguf.quantization.stage import f16_name
from luq_gguf.run import durations
from luq_gguf.run.session import Session

SAMPLE, QUESTION = 256, 256  # tokens of a sample, and of a question with its picture: before they were read
SCORED = 32  # samples of the backward pass, at most
BACKWARD = 4  # passes that the backward pass costs, which computes all layers again
WANTED = 0.6  # of the types of a best plan's choices: the others are never quantized
RACED = 0.5  # of the questions of its files
RIVALS = 4  # files that a best plan is compared with
FEW_BIT_LAYERS = 0.5  # of a plan that only measuring makes


def work(
    session: Session, calibration: CalibrationSet, prepared: Sequence[PlanInputs], stock: Sequence[Plan]
) -> dict[str, float]:
    """Return the seconds of a core that are to come, by part. What is done already is left out, as far as it is known
    without looking at its inputs."""
    run, spec = session.run, session.spec
    tensors = spec.tensors
    n_weights = {choice.name: choice.n_weights for choice in tensors.choices}
    parts = dict.fromkeys(durations.PARTS, 0.0)
    if not run.outputs("profile"):
        parts[durations.PROFILE] = durations.token_work(tensors.n_weights, calibration.samples * SAMPLE)
    if not spec.file and not run.file(f16_name(spec.checkpoint)).exists():
        parts[durations.CONVERT] = durations.convert_work(tensors.n_weights)
    for plan in stock:
        parts[durations.QUANTIZE] += durations.quantize_work(n_weights, plan.tensor_types)
    for inputs in prepared:
        parts[durations.QUANTIZE] += durations.quantize_work(n_weights, _likely_types(session, inputs))
        if (inputs.choices or inputs.rule in orders.FORETOLD) and not run.outputs("fisher"):
            n_passed = BACKWARD * min(calibration.samples, SCORED) * SAMPLE
            parts[durations.FORETELL] = durations.token_work(tensors.n_weights, n_passed)
        if inputs.choices:
            candidates = inputs.choices.candidates
            for kind in range(len(candidates.kinds)):
                types = candidates.as_types((kind,) * len(candidates.names))
                parts[durations.QUANTIZE] += WANTED * durations.quantize_work(n_weights, types)
            swaps = inputs.request.best.swaps if inputs.request.best else 0
            space, most = inputs.choices.space(spec), inputs.choices.most_bytes(spec)
            n_files = mixed_precision.most_files(space, most, swaps, RIVALS)
            questions = measured_on(inputs.request, spec).samples or 0
            n_tokens = RACED * n_files * questions * QUESTION
            parts[durations.MEASURE] += durations.token_work(tensors.n_weights, n_tokens)
    return parts


def _likely_types(session: Session, inputs: PlanInputs) -> Mapping[str, str]:
    """The types of a plan of about this size: which layers are low hardly changes what quantizing them costs."""
    tensors, budget = session.spec.tensors, inputs.request.budget
    order = range(tensors.n_layers)
    half = Budget(low_layers=round(FEW_BIT_LAYERS * tensors.n_layers))
    sized = any(size is not None for size in (budget.low_layers, budget.n_bytes, budget.bpw))
    with suppress(BudgetError):  # a best plan may be smaller than all layers low
        return two_type_plan.make_plan(tensors, order, budget if sized else half, "natural").tensor_types
    return two_type_plan.make_plan(tensors, order, half, "natural").tensor_types
