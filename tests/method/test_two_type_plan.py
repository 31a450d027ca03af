from dataclasses import replace

import pytest
from builders import model

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.core.types import Budget
from luq_gguf.core.units import format_bpw, format_size
from luq_gguf.method.two_type_plan import make_plan

ORDER = (2, 0, 3, 1)


def plan(budget: Budget):
    return make_plan(model(), ORDER, budget, "entropy")


def test_low_layers_take_the_front_of_the_order():
    made = plan(Budget(low_layers=2))
    assert made.low_layers == (0, 2)
    assert made.tensor_types["blk.2.ffn_up.weight"] == "IQ1_M"
    assert made.tensor_types["blk.1.ffn_up.weight"] == "Q4_K"
    assert made.tensor_types["blk.2.attn_norm.weight"] == "F32"
    assert made.predicted_bytes == 2000 + 2 * 400 + 2 * 1000 + 4 * 32
    # each tensor is padded to 32 bytes: 2016 + 2 * 416 + 2 * 1024 + 4 * 32, and 100 of header
    assert made.predicted_file_bytes == 100 + 2016 + 2 * 416 + 2 * 1024 + 4 * 32


@pytest.mark.parametrize(
    ("n_bytes", "low"), [(6340, ()), (6339, (2,)), (5732, (2,)), (5731, (0, 2)), (5123, (0, 2, 3))]
)
def test_a_size_budget_takes_as_few_layers_as_will_do(n_bytes, low):
    made = plan(Budget(n_bytes=n_bytes))
    assert made.low_layers == low
    assert made.predicted_file_bytes <= n_bytes


def test_a_bpw_budget_counts_all_weights_of_the_text_model():
    weights = 4096 + 4 * (2048 + 8)
    made = plan(Budget(bpw=8 * 4928 / weights))
    assert made.low_layers == (0, 2)
    assert made.bpw == pytest.approx(8 * 4928 / weights)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(n_bytes=3000), "4 layers in IQ1_M the text model still takes .*3908 bytes"),
        (Budget(bpw=0.5), "still takes"),
        (Budget(low_layers=5), "has 4 decoder layers"),
        (Budget(low_layers=-1), "has 4 decoder layers"),
    ],
)
def test_an_impossible_budget_says_what_is_possible(budget, words):
    with pytest.raises(BudgetError, match=words):
        plan(budget)


@pytest.mark.parametrize("count", range(5))
def test_the_bits_per_weight_that_are_shown_give_the_same_plan_as_a_target(count):
    made = plan(Budget(low_layers=count))
    assert plan(Budget(bpw=float(format_bpw(made.bpw)))).low_layers == made.low_layers


def test_bits_per_weight_for_people_are_never_less_than_the_number():
    assert format_bpw(3.4346) == "3.435"
    assert format_bpw(3.4340001) == "3.435"
    assert format_bpw(4.0) == "4.000"
    for n_bytes in range(1, 2000):
        assert 0 <= float(format_bpw(8 * n_bytes / 4096)) - 8 * n_bytes / 4096 < 0.001 + 1e-9


def test_sizes_for_people_round_up_when_they_are_limits():
    assert format_size(3 * 1024**3) == "3.00 GiB"
    assert format_size(5 * 1024**2 + 1, up=True) == "5.01 MiB"


def ruled(**rules):
    return replace(model(), rules=PlanRules(**rules))


@pytest.mark.parametrize(
    ("rules", "low"),
    [
        ({"keep": (2, 3)}, (0, 1)),
        ({"low_only": (1, 3)}, (1, 3)),
        ({"keep": (0,), "low_only": (1, 2, 3)}, (2, 3)),
    ],
)
def test_layers_that_are_kept_are_passed_over_in_the_order(rules, low):
    made = make_plan(ruled(**rules), ORDER, Budget(low_layers=2), "entropy")
    assert made.low_layers == low
    assert made.order == ORDER
    assert made.predicted_file_bytes == plan(Budget(low_layers=2)).predicted_file_bytes
    assert made.to_json()["rules"] == {name: list(layers) for name, layers in rules.items()}
    by_size = make_plan(ruled(**rules), ORDER, Budget(n_bytes=made.predicted_file_bytes), "entropy")
    assert by_size.low_layers == low


def test_a_plan_without_rules_does_not_speak_of_them():
    assert "rules" not in plan(Budget(low_layers=2)).to_json()


@pytest.mark.parametrize(
    ("rules", "budget", "words"),
    [
        # 2 of 4 layers low: 100 + 2016 + 2 * 416 + 2 * 1024 + 4 * 32
        ({"keep": (0, 3)}, Budget(n_bytes=5000), r"with --keep 0,3: with all 2 layers that may be low .*\(5124 bytes"),
        ({"low_only": (1,)}, Budget(bpw=0.5), "with --low-only 1: with the only layer that may be low"),
        ({"keep": (0, 3)}, Budget(low_layers=3), "with --keep 0,3: the model has 4 decoder layers, 2 of which may be"),
    ],
)
def test_a_budget_that_the_rules_make_impossible_names_them(rules, budget, words):
    with pytest.raises(BudgetError, match=words):
        make_plan(ruled(**rules), ORDER, budget, "entropy")


def test_a_speed_that_needs_kept_layers_is_refused():
    with pytest.raises(BudgetError, match="with --keep 0,3: the highest predicted speed is 2.0, with 2 low layers"):
        make_plan(ruled(keep=(0, 3)), ORDER, Budget(decode_tps=3.0), "entropy", decode_tps=len)
