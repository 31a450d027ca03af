"""Types and names of llama-quantize's own files."""

from luq_gguf.method import uniform
from luq_gguf.method.orders import ORDERS


def test_a_sweep_measures_some_of_the_files_that_a_plan_has_to_beat():
    assert set(uniform.SWEPT) < set(uniform.FTYPES)
    assert list(uniform.SWEPT) == [ftype for ftype in uniform.FTYPES if ftype in uniform.SWEPT]


def test_names_of_files_are_no_orders_and_lead_back_to_their_types():
    for ftype in uniform.FTYPES:
        assert uniform.is_uniform(uniform.name_of(ftype))
        assert uniform.ftype_of(uniform.name_of(ftype)) == ftype
    assert not any(uniform.is_uniform(name) for name in (*ORDERS, "best", uniform.REFERENCE))
