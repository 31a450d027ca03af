"""Invariants of the method over arbitrary inputs."""

import numpy as np
import pytest
from builders import entropies
from hypothesis import given
from hypothesis import strategies as st

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget, ImportanceMatrix, ModelTensors, TensorChoice
from luq_gguf.method import two_type_plan
from luq_gguf.method.entropy import histogram_entropy
from luq_gguf.method.importance import merge
from luq_gguf.method.metrics.kld import keep_top, kl_divergence, kl_from_top
from luq_gguf.method.orders import UNMEASURED, rank
from luq_gguf.method.ranking import near_ties
from luq_gguf.method.tensor_types import differences, from_text, to_text

sizes = st.integers(32, 10**9)
names = st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z0-9_]{1,8}){0,4}", fullmatch=True)
types = st.sampled_from(["IQ1_M", "Q4_K", "Q6_K", "F32"])


@st.composite
def models(draw) -> ModelTensors:
    n_layers = draw(st.integers(1, 12))
    choices = [TensorChoice("token_embd.weight", None, 1000, "Q4_K", (e := draw(sizes)), "Q4_K", e)]
    for n in range(n_layers):
        high = draw(sizes)
        low = draw(st.integers(1, high))
        choices.append(TensorChoice(f"blk.{n}.ffn_up.weight", n, 1000, "Q4_K", high, "IQ1_M", low))
    return ModelTensors(tuple(choices), n_layers, "IQ1_M", "Q4_K_M", draw(st.integers(0, 10**6)))


@given(models(), st.data())
def test_a_plan_meets_its_budget_with_no_layer_too_many(model, data):
    order = data.draw(st.permutations(range(model.n_layers)))
    ends = two_type_plan.file_bytes(model, range(model.n_layers)), two_type_plan.file_bytes(model, ())
    n_bytes = data.draw(st.integers(ends[0], ends[1]))
    plan = two_type_plan.make_plan(model, order, Budget(n_bytes=n_bytes), "entropy")
    assert plan.predicted_file_bytes <= n_bytes
    count = len(plan.low_layers)
    assert set(plan.low_layers) == set(order[:count])
    assert count == 0 or two_type_plan.file_bytes(model, order[: count - 1]) > n_bytes


@given(models(), st.integers(1, 10**9))
def test_a_budget_below_the_smallest_file_is_refused_and_the_smallest_accepted(model, less):
    smallest = two_type_plan.file_bytes(model, range(model.n_layers))
    two_type_plan.check_budget(model, Budget(n_bytes=smallest))
    with pytest.raises(BudgetError, match=str(smallest)):
        two_type_plan.check_budget(model, Budget(n_bytes=smallest - less))


@given(models(), st.data())
def test_every_low_layer_more_makes_the_file_no_larger(model, data):
    order = data.draw(st.permutations(range(model.n_layers)))
    made = [two_type_plan.data_bytes(model, order[:n]) for n in range(model.n_layers + 1)]
    assert made == sorted(made, reverse=True)


@given(st.lists(st.floats(0, 6.64), min_size=1, max_size=40), st.integers(0, 1000))
def test_rankings_are_permutations_and_opposites(bits, seed):
    layers = entropies(*bits)
    for ranking in UNMEASURED:
        assert sorted(rank(layers, ranking, seed)) == list(range(len(bits)))
    ascending = [bits[n] for n in rank(layers, "entropy")]
    assert ascending == sorted(bits)
    assert [bits[n] for n in rank(layers, "entropy-desc")] == sorted(bits, reverse=True)
    order = rank(layers, "entropy")
    assert all(bits[a] == bits[b] for a, b in near_ties(layers, order))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=100).filter(any))
def test_entropy_lies_between_zero_and_log2_of_the_clusters(counts):
    bits = histogram_entropy(np.array(counts))
    assert -1e-9 <= bits <= np.log2(len(counts)) + 1e-9
    assert bits == pytest.approx(histogram_entropy(np.array(counts)[::-1]))


@given(st.dictionaries(names, types, max_size=20))
def test_type_maps_survive_as_text(kinds):
    assert from_text(to_text(kinds)) == kinds
    assert differences(kinds, kinds) == []


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), min_size=1, max_size=6), st.randoms())
def test_merging_does_not_depend_on_order(rows, random):
    parts = [ImportanceMatrix({"a": np.array([row])}, {"a": np.array([i])}, 1) for i, row in enumerate(rows)]
    shuffled = random.sample(parts, len(parts))
    one, other = merge(parts), merge(shuffled)
    assert one.in_sum2["a"] == pytest.approx(other.in_sum2["a"])
    assert one.counts["a"] == other.counts["a"]


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_top_part_never_tells_more_divergence_than_there_is(n_vocab, k, seed):
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore"):
        p, q = (np.maximum(np.log(rng.dirichlet(np.full(n_vocab, 0.5), 5)), -80).astype(np.float32) for _ in range(2))
    parts = kl_from_top(keep_top(p, k), q)
    assert (parts >= 0).all()
    assert (parts <= kl_divergence(p, q) + 1e-4).all()
