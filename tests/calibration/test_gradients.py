"""The walk backwards, layer by layer, against autograd through the whole model with the same directions."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from luq_gguf.calibration.batches import Batch
from luq_gguf.calibration.gradients import DrawnGradients, Embedded, Product, Scored
from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import experts

IDS, LENGTHS, DRAWS = (4, 9), (7, 5), 2
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}  # fmt: skip
CONFIGS = {
    "dense": LlamaConfig(**SIZES, attention_bias=True),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mixture": Qwen3MoeConfig(**SIZES, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2),
}


def model_of(name):
    torch.manual_seed(0)
    experts.register()
    made = AutoModelForCausalLM.from_config(CONFIGS[name], experts_implementation=experts.NAME).float().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return made


@pytest.fixture(scope="module")
def batch():
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 64, (2, 7)))
    valid = torch.arange(7)[None] < torch.tensor(LENGTHS)[:, None]
    return Batch({"input_ids": ids, "attention_mask": valid.long()}, valid, multimodal=False, ids=IDS)


def by_autograd(model, batch, sequence, draw):
    """Gradients of all parameters along one sequence's directions, drawn as the walk draws them."""
    n = LENGTHS[sequence]
    model.requires_grad_(requires_grad=True).zero_grad()
    logits = model(input_ids=batch.inputs["input_ids"][sequence : sequence + 1, :n]).logits[0, : n - 1]
    p, total = logits.detach().softmax(-1), 0.0
    for at in range(n - 1):
        drawn = np.random.default_rng((11, IDS[sequence], at)).bytes(DRAWS * 8)
        bits = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(DRAWS, 64)[draw]
        along = p[at].sqrt() * (2 * torch.from_numpy(bits).float() - 1)
        total = total + ((along - p[at] * (p[at].sqrt() @ along)) * logits[at]).sum()
    total.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_outer_products_are_the_gradients_of_the_weights(name, batch):
    model = model_of(name)
    names = {module: path for path, module in model.named_modules()}
    expected = {(s, d): by_autograd(model, batch, s, d) for s in range(2) for d in range(DRAWS)}
    model.zero_grad()
    found = {key: {} for key in expected}
    order = []
    for shown in DrawnGradients(model, DRAWS, 11, set()).of(batch):
        if not isinstance(shown, Product):
            continue
        path = f"{names[shown.module]}.{shown.parameter}"
        order.append(int(path.split(".")[2]))
        for sequence, first, after in shown.spans:
            for draw in range(DRAWS):
                outer = shown.gradients[draw, first:after].T @ shown.x[first:after]
                if shown.parameter != "weight":
                    whole = torch.zeros_like(dict(model.named_parameters())[path])
                    whole[shown.expert] = outer
                    outer = found[sequence, draw].get(path, 0) + whole
                found[sequence, draw][path] = outer
    assert order == sorted(order, reverse=True), "from the last layer to the first"
    assert all(parameter.grad is None for parameter in model.parameters())
    n_matrices = 6 if name == "mixture" else 7  # gate and up of experts are one; their router is no linear layer
    for key, gradients in found.items():
        assert len(gradients) == 3 * n_matrices
        for path, gradient in gradients.items():
            true = expected[key][path]
            torch.testing.assert_close(gradient, true, rtol=1e-3, atol=1e-4 * float(true.abs().max()))


def test_gradients_by_the_embeddings_and_what_the_head_is_given(batch):
    model = model_of("dense")
    expected = [by_autograd(model, batch, s, 0)["model.embed_tokens.weight"] for s in range(2)]
    shown = list(DrawnGradients(model, DRAWS, 11, set()).of(batch))
    embedded = next(one for one in shown if isinstance(one, Embedded))
    for sequence, true in enumerate(expected):
        of_sequence = embedded.sequences == sequence
        tokens = embedded.tokens[of_sequence]
        summed = torch.zeros_like(true).index_add_(0, tokens, embedded.gradients[0][of_sequence])
        torch.testing.assert_close(summed, true, rtol=1e-3, atol=1e-5 * float(true.abs().max()))
        torch.testing.assert_close(embedded.vectors[of_sequence], model.model.embed_tokens.weight[tokens].detach())
    scored = [one for one in shown if isinstance(one, Scored)]
    assert sum(len(one.hidden) for one in scored) == sum(LENGTHS) - 2, "not after the last token of a sample"
    assert torch.allclose(scored[0].log_probabilities.exp().sum(-1), torch.ones(len(scored[0].hidden)))


def test_places_of_pictures_are_not_scored(batch):
    gradients = DrawnGradients(model_of("dense"), DRAWS, 11, {int(batch.inputs["input_ids"][0, 2])})
    scored = gradients.scored(batch)
    assert not scored[0, 2]
    assert scored[0, :2].all()
    assert not scored[0, 6]
    assert not scored[1, 4:].any()


def test_a_head_that_the_model_uses_in_another_way_is_refused():
    model = model_of("dense")
    plain = model.forward
    model.forward = lambda *args, **kwargs: _shifted(plain(*args, **kwargs))
    with pytest.raises(CheckpointError, match="logits in a way of its own"):
        DrawnGradients(model, DRAWS, 11, set())


def _shifted(output):
    output.logits = output.logits * torch.linspace(0.5, 2, output.logits.shape[-1])
    return output
