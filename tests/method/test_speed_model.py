"""Predicted speed: arithmetic on rates that are given."""

import pytest
from builders import model

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget
from luq_gguf.method.speed_model import SpeedTable, TypeRate, predict, smallest_faster, types_of
from luq_gguf.method.two_type_plan import make_plan, tensor_types

TABLE = SpeedTable(
    {"Q4_K": TypeRate(2048e3, 2048e4), "IQ1_M": TypeRate(1024e3, 4096e4), "Q2_K": TypeRate(4096e3, 2048e4)},
    decode_constant=0.001,
    prefill_constant=0.0001,
    threads=2,
    n_prompt=4,
)


def test_a_token_costs_what_its_matrices_cost_and_a_constant():
    tensors = model()
    # four matrices of 2048 weights at 1 ms each, and 1 ms beside
    assert predict(TABLE, tensors, tensor_types(tensors, ())).decode_tps == pytest.approx(1 / 0.005)
    # two layers take twice as long
    assert predict(TABLE, tensors, tensor_types(tensors, (0, 1))).decode_tps == pytest.approx(1 / 0.007)
    found = predict(TABLE, tensors, tensor_types(tensors, (0, 1)))
    assert found.prefill_tps == pytest.approx(1 / (2 * 0.0001 + 2 * 0.00005 + 0.0001))


def test_a_prediction_needs_the_types_of_matrices_alone():
    assert types_of(model()) == {"Q4_K", "IQ1_M"}


def test_the_smallest_type_that_is_faster_lies_between_low_and_high():
    bits = {"IQ1_M": 1.75, "Q2_K": 2.625, "Q4_K": 4.5}
    assert smallest_faster(TABLE, "IQ1_M", "Q4_K", bits) == "Q2_K"
    assert smallest_faster(TABLE, "Q2_K", "Q4_K", bits) is None


def decode_tps(faster_by: float):
    return lambda low: 100.0 * faster_by ** len(low)


def test_a_budget_of_speed_takes_as_few_layers_as_will_do():
    made = make_plan(model(), (2, 0, 3, 1), Budget(decode_tps=119), "entropy", (), decode_tps(1.1))
    assert made.low_layers == (0, 2)
    assert make_plan(model(), (2, 0, 3, 1), Budget(decode_tps=99), "entropy", (), decode_tps(1.1)).low_layers == ()


def test_a_speed_out_of_reach_is_refused_with_the_most_there_is():
    with pytest.raises(BudgetError, match="the highest predicted speed is 100.0, with 0 low layers"):
        make_plan(model(), (2, 0, 3, 1), Budget(decode_tps=101), "entropy", (), decode_tps(0.9))
