import pytest

from luq_gguf.core.errors import InputError
from luq_gguf.method.tensor_types import differences, from_text, layer_of, to_text


def test_every_tensor_has_an_anchored_escaped_pattern():
    assert to_text({"blk.1.attn_q.weight": "IQ1_M"}) == "^blk\\.1\\.attn_q\\.weight$=iq1_m\n"


def test_text_reads_back():
    types = {"blk.0.attn_q.weight": "IQ1_M", "token_embd.weight": "Q6_K"}
    assert from_text(to_text(types)) == types


def test_names_that_patterns_cannot_carry_are_refused():
    with pytest.raises(InputError, match="blk.0.Weird"):
        to_text({"blk.0.Weird": "Q4_K"})
    with pytest.raises(InputError, match="not a line that luq-gguf writes"):
        from_text("attn_q=q8_0")


def test_layers_of_names():
    assert layer_of("blk.11.ffn_up.weight") == 11
    assert layer_of("output_norm.weight") is None
    assert layer_of("mtp.blk.1.x") is None


def test_differences_name_tensor_and_types():
    told = differences({"a": "IQ1_M", "b": "Q4_K", "c": "F32"}, {"a": "Q4_K", "c": "F32", "d": "F16"})
    assert told == [
        "a: planned IQ1_M, found Q4_K",
        "b: planned Q4_K, found no such tensor",
        "d: in the file (F16), not in the plan",
    ]
