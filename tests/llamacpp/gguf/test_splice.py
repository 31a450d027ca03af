"""Files spliced from the variants of all layers low and none are what llama-quantize writes for the same map, byte for
byte but for the lines of the header that name the plan."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from gguf_parts import but_labels

from luq_gguf.core.errors import VerificationError
from luq_gguf.core.types import Budget
from luq_gguf.llamacpp.gguf import splice
from luq_gguf.method import two_type_plan
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@contextmanager
def bank(copied, tiny_model, low):
    """A copy of a converted run with its variants."""
    with RunFolder(copied.folder) as run:
        session = open_session(run, str(tiny_model), low=low)
        yield session, *quantization_stage.make_layer_variants(session)


@pytest.fixture(scope="module")
def made(small, tiny_model, tmp_path_factory):
    with bank(small.copy(tmp_path_factory.mktemp("bank") / "run"), tiny_model, "Q2_K") as held:
        yield held


def test_the_converted_file_can_be_spliced(converted, tiny_model, tmp_path):
    with bank(converted.copy(tmp_path / "run"), tiny_model, "IQ1_M") as (session, low, high):
        layers = converted.result["low_layers"]
        plan = two_type_plan.make_plan(session.spec.tensors, layers, Budget(low_layers=len(layers)), "entropy")
        splice.splice((high, low), plan.tensor_types, tmp_path / "spliced.gguf")
    assert but_labels(tmp_path / "spliced.gguf") == but_labels(converted.model)


@pytest.mark.parametrize("layers", [(0,), (11, 3, 7)], ids=str)
def test_any_choice_of_layers_has_the_bytes_of_llama_quantize(made, layers, tmp_path):
    session, low, high = made
    run, spec = session.run, session.spec
    plan = two_type_plan.make_plan(spec.tensors, layers, Budget(low_layers=len(layers)), "entropy")
    splice.splice((high, low), plan.tensor_types, tmp_path / "spliced.gguf")
    direct = run.file("direct.gguf")
    quantization_stage.quantize_plan(session, plan, direct)
    assert but_labels(tmp_path / "spliced.gguf") == but_labels(direct)
    assert not list(tmp_path.glob("*.part"))


def test_a_type_that_neither_file_holds_is_named(made, tmp_path):
    session, low, high = made
    spec = session.spec
    plan = two_type_plan.make_plan(spec.tensors, range(12), Budget(low_layers=1), "entropy")
    wrong = replace(plan, tensor_types=dict(plan.tensor_types) | {"blk.3.ffn_up.weight": "Q8_0"})
    with pytest.raises(VerificationError, match=r"do not contain blk\.3\.ffn_up\.weight in Q8_0"):
        splice.splice((high, low), wrong.tensor_types, tmp_path / "spliced.gguf")
    assert not list(tmp_path.iterdir())


def test_bank_files_are_as_large_as_predicted(made):
    session, low, high = made
    tensors = session.with_dataset(serialization.read_profile(session.run.file("profile.json"))).spec.tensors
    assert high.stat().st_size == two_type_plan.file_bytes(tensors, ())
    assert low.stat().st_size == two_type_plan.file_bytes(tensors, range(12))
