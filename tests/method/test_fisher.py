"""The statistic against a model whose divergences are known, and what follows for types that were not looked at."""

import numpy as np
import pytest

from luq_gguf.core.fisher import ForetoldKlds
from luq_gguf.method import fisher

FORETOLD = ForetoldKlds(
    klds={"blk.0.ffn_up.weight": {"IQ1_M": 0.8, "Q4_K": 0.02}, "blk.1.ffn_up.weight": {"IQ1_M": 0.2, "Q4_K": 0.005},
          "blk.1.ffn_down.weight": {"IQ1_M": 0.1, "Q4_K": 0.1}},
    errors={"blk.0.ffn_up.weight": {"IQ1_M": 0.4, "Q4_K": 0.01}, "blk.1.ffn_up.weight": {"IQ1_M": 0.4, "Q4_K": 0.01},
            "blk.1.ffn_down.weight": {"IQ1_M": 0.5, "Q4_K": 0.02}, "blk.2.ffn_up.weight": {"IQ1_M": 0.3, "Q4_K": 0.01},
            "blk.2.attn_q.weight": {"IQ1_M": 0.4, "Q4_K": 0.01}},
    unseen=("blk.2.ffn_up.weight", "blk.2.attn_q.weight"),
    n_samples=1, n_positions=1, multimodal=False, draws=1, seed=0,
)  # fmt: skip


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_half_the_mean_square_is_the_divergence_of_a_small_change():
    """A linear softmax model, whose gradient by W x_t is the drawn direction itself."""
    rng = np.random.default_rng(0)
    matrix, change = rng.normal(size=(12, 6)), rng.normal(0, 0.002, (12, 6))
    inputs, draws = rng.normal(size=(40, 8, 6)), 4000  # sequences, positions, width
    before, after = (softmax(inputs @ of.T) for of in (matrix, matrix + change))
    exact = float((before * np.log(before / after)).sum(-1).mean())
    squares = 0.0
    for sequence, p in zip(inputs, before, strict=True):
        upward = np.sqrt(p) * rng.choice([-1, 1], (draws, 8, 12))
        gradients = upward - p * (np.sqrt(p) * upward).sum(-1, keepdims=True)
        outer = np.einsum("dto,ti->doi", gradients, sequence)
        squares += float(((outer * change).sum((1, 2)) ** 2).sum())
    assert fisher.mean_kld(np.array([squares]), draws, 40 * 8)[0] == pytest.approx(exact, rel=0.05)


def test_embeddings_that_were_not_quantized_are_taken_as_those_that_were():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(300, 16)) * rng.uniform(0.5, 2, (300, 1))
    noise = 0.1 * rng.normal(size=(300, 16)) * np.linalg.norm(vectors, axis=1, keepdims=True) / 4
    slopes = rng.normal(size=(300, 16))
    expected = fisher.embedding_squares(slopes, vectors, noise[None, :128], vectors[:128])[0]
    assert expected == pytest.approx(float(((slopes * noise).sum(1) ** 2).sum()), rel=0.2)


def test_a_matrix_without_gradients_costs_what_its_part_usually_costs_for_its_error():
    costs = fisher.costs(FORETOLD, {"blk.2.ffn_up.weight": {"IQ1_M"}, "blk.2.attn_q.weight": {"Q4_K", "F16"}})
    assert costs["blk.2.ffn_up.weight"]["IQ1_M"] == pytest.approx(0.3 * 1.0)  # the mean of 2 and 1/2
    assert costs["blk.2.attn_q.weight"]["Q4_K"] == pytest.approx(0.01 * (1.0 * 1.0 * 0.2 * 5.0) ** (1 / 6))
    assert costs["blk.2.attn_q.weight"]["F16"] == 0


def test_a_layer_costs_what_its_matrices_lose_more():
    low = dict.fromkeys(FORETOLD.errors, "IQ1_M") | {"token_embd.weight": "Q4_K"}
    high = dict.fromkeys(FORETOLD.errors, "Q4_K") | {"token_embd.weight": "Q4_K"}
    klds = fisher.kld_of_layers(FORETOLD, low, high)
    assert klds[0] == pytest.approx(0.78)
    assert klds[1] == pytest.approx(0.195)
    assert set(klds) == {0, 1, 2}
