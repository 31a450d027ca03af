"""Which types a best plan may choose from, by their speed here: told in seconds, and not asked where nothing hangs on
it."""

import types

import pytest

from luq_gguf.benchmarking import type_benchmark, type_products
from luq_gguf.core.reporter import Reporter
from luq_gguf.planning import mixed_precision

KINDS = ("Q2_K", "Q4_K", "IQ1_M", "IQ4_XS")


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_rates_are_measured_once_for_a_machine(small, tmp_path, monkeypatch):
    geometry = type_benchmark.geometry(small.copy(tmp_path / "run").folder)
    monkeypatch.setattr(type_products, "BYTES", 2**20)
    monkeypatch.setattr(type_products, "paths", types.SimpleNamespace(cache=lambda name: tmp_path / "cache" / name))
    told = []
    first = type_products.decode_rates(geometry, 1, KINDS[:3], Reporter(info=told.append))
    assert set(first) == set(KINDS[:3])
    assert all(1e6 < rate < 1e13 for rate in first.values())
    more = type_products.decode_rates(geometry, 1, KINDS, Reporter(info=told.append))
    assert {kind: more[kind] for kind in first} == first
    assert told == [
        "speed of tensor types on this CPU, about a second each: Q2_K, Q4_K, IQ1_M",
        "speed of tensor types on this CPU, about a second each: IQ4_XS",
    ]
    monkeypatch.setattr(type_products.child, "run", lambda *args: pytest.fail("measured again"))
    assert type_products.decode_rates(geometry, 1, KINDS, Reporter()) == more


def test_types_below_half_of_q4_k_are_left_out_and_told():
    told = []
    rates = {"Q2_K": 2.0, "Q4_K": 1.0, "IQ1_M": 0.49, "IQ4_XS": 0.5}
    assert mixed_precision._useful(KINDS, rates, Reporter(info=told.append)) == ("Q2_K", "Q4_K", "IQ4_XS")
    assert told == ["left out, slower than 0.5 times Q4_K's decode speed here: IQ1_M"]
    assert mixed_precision._useful(KINDS, {}, Reporter(info=told.append)) == KINDS
    assert len(told) == 1
