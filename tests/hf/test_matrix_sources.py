"""Which module of transformers has the inputs of a matrix of the file: parts, merges, and what has none."""

import pytest
import torch
from torch import nn

from luq_gguf.core.tensor_sources import MatrixSource, TensorSource
from luq_gguf.hf import experts
from luq_gguf.hf.decoder import decoder_layers, decoder_matrices
from luq_gguf.hf.matrix_sources import matrix_sources
from luq_gguf.hf.parameter_names import parameters_of
from luq_gguf.hf.tensor_names import TensorNames

HIDDEN, WIDTH, N_EXPERTS = 8, 6, 4
LAYER, BLOCK = "model.layers.1", "blk.1"


@pytest.fixture(scope="module")
def model():
    """A Qwen3-MoE without weights: 2 layers, 2 heads of 4."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=16, hidden_size=HIDDEN, moe_intermediate_size=WIDTH, num_experts=N_EXPERTS, num_experts_per_tok=2,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    with torch.device("meta"):
        return Qwen3MoeForCausalLM(config)


@pytest.fixture
def found(model):
    """The source of one matrix of the file, which the converter makes of these tensors of the layer."""

    def find(made, *sources, name="attn_part", **facts):
        gguf_name = f"{BLOCK}.{name}.weight"
        source = TensorSource(tuple(f"{LAYER}.{s}.weight" for s in sources), **({"shape": made} | facts))
        names = TensorNames("qwen3moe", 2, [gguf_name])
        return matrix_sources(model, names, {gguf_name: made}, {gguf_name: source}).get(gguf_name)

    return find


def test_a_part_has_the_inputs_of_its_source_and_each_head_the_same(found):
    part = found((2, 3, HIDDEN), "self_attn.q_proj", axis=-1, rows=((0, 3), (4, 7)))
    assert part == MatrixSource(f"{LAYER}.self_attn.q_proj", "", 2, HIDDEN, rows=((0, 3), (4, 7)))


def test_a_transposed_part_has_none(found):
    assert found((2, HIDDEN, 3), "self_attn.q_proj", axis=-2) is None


def test_columns_in_another_order_are_kept_so_and_some_of_them_are_enough(found):
    order = ((4, 8), (0, 4))
    assert found((8, HIDDEN), "self_attn.q_proj", axis=-1, order=order).order == order
    assert found((8, 4), "self_attn.q_proj", axis=-1, order=((4, 8),)).n_in == 4
    assert found((8, 4), "self_attn.q_proj", axis=-1) is None


def test_layers_side_by_side_are_joined_and_others_are_not(found):
    joined = found((24, HIDDEN), *(f"self_attn.{part}_proj" for part in "qkv"), axis=-1)
    assert joined == MatrixSource(f"{LAYER}.self_attn.k_proj", "", 1, HIDDEN)
    assert found((2, 8, HIDDEN), "self_attn.q_proj", "self_attn.k_proj", axis=-1) is None
    assert found((16, HIDDEN), "self_attn.q_proj", "mlp.gate", axis=-1) is None


def test_what_the_walk_cannot_tell_is_found_by_its_name(found):
    rows = ((0, 8),)
    assert found((8, HIDDEN), "self_attn.q_proj", name="attn_q") == MatrixSource(
        f"{LAYER}.self_attn.q_proj", "", 1, HIDDEN, rows=rows
    )
    assert found((8, HIDDEN), "self_attn.q_proj") is None  # no name of gguf's


def test_sources_without_a_parameter_are_scales_or_nothing(found):
    assert found((8, HIDDEN), "self_attn.q_proj", "self_attn.q_proj_scale", axis=-1).module.endswith("q_proj")
    assert found((8, HIDDEN), "self_attn.other_proj", axis=-1) is None


def test_experts_are_found_by_transformers_own_rules_for_loading(found, model):
    each = [f"mlp.experts.{n}.up_proj" for n in range(N_EXPERTS)]
    up = found((N_EXPERTS, WIDTH, HIDDEN), *each, axis=-1, shape=(WIDTH, HIDDEN))
    assert up == MatrixSource(f"{LAYER}.mlp.experts", experts.INTO, N_EXPERTS, HIDDEN)
    names = [f"{LAYER}.mlp.experts.{n}.down_proj.weight" for n in range(2)]
    parameters = dict.fromkeys(names, f"{LAYER}.mlp.experts.down_proj")
    assert parameters_of(model, [*names, "mtp.fc.weight"]) == parameters


def test_energies_are_those_of_a_parts_rows_in_the_files_order():
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 9]])
    sources = {
        "blk.0.part.weight": MatrixSource("0", "", 1, 4, order=((2, 4), (0, 2)), rows=((0, 1), (2, 3))),
        "blk.0.unknown.weight": MatrixSource("0", "", 1, 4),
    }
    energies = decoder_matrices(model, sources).column_energies()
    assert {name: list(energy) for name, energy in energies.items()} == {"blk.0.part.weight": [9, 97, 1, 4]}


class Multiplied(nn.Module):
    """Experts as Llama 4 computes them: every token goes to each of them, as zeros where it is not chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.ones(2, 3, 4))
        self.out = nn.Parameter(torch.ones(2, 4, 3))

    def forward(self, hidden):
        return torch.bmm(torch.bmm(hidden.view(2, -1, 3), self.into), self.out).view(-1, 3)


class Looped(Multiplied):
    def forward(self, hidden, chosen):
        return torch.stack([hidden[n] @ self.into[e] @ self.out[e] for n, e in enumerate(chosen)])


def test_products_with_all_experts_at_once_show_the_inputs_of_the_tokens_that_reach_each():
    module, seen = Multiplied(), []
    assert [experts.product_of(module, name) for name in ("into", "out", "bias")] == ["into", "out", None]
    assert (experts.shape(module, "into"), experts.shape(module, "out")) == ((2, 3), (2, 4))
    assert experts.input_axis(module, "into", (2, 3, 4)) == -2
    undo = experts.set_hook(module, lambda *shown: seen.append(shown))
    hidden = torch.tensor([[1.0, 2, 3], [0, 0, 0], [0, 0, 0], [4, 5, 6]])  # two tokens, each to one expert
    module(hidden)
    undo()
    module(hidden)
    facts = [(product, expert, x.tolist(), tokens.tolist()) for product, expert, x, tokens in seen]
    into = [("into", 0, [[1, 2, 3]], [0]), ("into", 1, [[4, 5, 6]], [1])]
    assert facts == [*into, ("out", 0, [[6] * 4], [0]), ("out", 1, [[15] * 4], [1])]


def test_experts_that_are_computed_otherwise_show_nothing():
    assert experts.product_of(Looped(), "into") is None


def test_layers_are_found_in_a_decoder_that_has_its_head(model):
    class Whole(nn.Module):
        """Llama 4's get_decoder() returns the model with its head."""

        def __init__(self) -> None:
            super().__init__()
            self.language_model, self.config = model, model.config

        def get_decoder(self):
            return self.language_model

    assert decoder_layers(Whole()) is model.model.layers
