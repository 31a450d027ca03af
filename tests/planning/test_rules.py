"""--keep, --low-only, --output-type and --embedding-type: from the command line to the file."""

import json

import pytest

from luq_gguf.core.plan_rules import PlanRules
from luq_gguf.llamacpp.gguf import reader
from luq_gguf.method.tensor_types import layer_of
from luq_gguf.planning import rules, variants
from luq_gguf.publishing import artifacts, card_plan
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_planned

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="module")
RULES = ("--keep", "0,-1", "--low-only", "1-6", "--output-type", "q8_0", "--embedding-type", "F16")


@pytest.fixture(scope="module")
def ruled(cli, small, tmp_path_factory):
    """A run folder with a plan and a file that obey rules, and that plan."""
    run = small.copy(tmp_path_factory.mktemp("ruled") / "run").folder
    done = cli("plan", run, "--low", "Q2_K", "--low-layers", 4, *RULES, "--json")
    assert done.returncode == 0, done.stderr
    made = cli("quantize", run, "--threads", 1, "--keep-f16", "--json")
    assert made.returncode == 0, made.stderr
    return run, json.loads(done.stdout), json.loads(made.stdout)


def test_only_layers_that_may_be_are_low_in_the_order_of_entropy(small, ruled):
    run, plan, _ = ruled
    profile = json.loads((run / "profile.json").read_text())
    free = sorted((row["entropy_bits"], row["layer"]) for row in profile["layers"] if 1 <= row["layer"] <= 6)
    assert plan["low_layers"] == sorted(layer for _, layer in free[:4])
    assert plan["rules"] == {
        "keep": [0, 11],
        "low_only": [1, 2, 3, 4, 5, 6],
        "output_type": "Q8_0",
        "embedding_type": "F16",
    }
    assert "rules" not in json.loads((small.folder / "plan.json").read_text())


def test_the_file_has_the_types_and_the_size_that_were_predicted(small, ruled):
    run, plan, result = ruled
    info = reader.read(run / result["model"])
    assert info.types == plan["tensor_types"]
    assert (info.types["output.weight"], info.types["token_embd.weight"]) == ("Q8_0", "F16")
    assert info.n_bytes == plan["predicted_file_bytes"] == result["n_bytes"]
    stock = json.loads((small.folder / "plan.json").read_text())["tensor_types"]
    others = {name for name, kind in stock.items() if layer_of(name) is None and info.types[name] != kind}
    assert others == {"output.weight", "token_embd.weight"}
    assert "^token_embd\\.weight$=f16" in (run / "tensor-types.txt").read_text().split()


def test_what_is_printed_and_the_card_say_what_was_asked_for(cli, ruled):
    run, _, _ = ruled
    done = cli("plan", run, "--low", "Q2_K", "--low-layers", 4, *RULES)
    words = "never low: layers 0, 11; only these may be low: layers 1, 2, 3, 4, 5, 6; output.weight in Q8_0; "
    assert f"by request, {words}token_embd.weight in F16" in done.stdout
    finished = artifacts.collect(RunFolder(run))
    assert f"By request, {words}token_embd.weight in F16." in card_plan.why(finished)
    again = "--keep 0,11 --low-only 1,2,3,4,5,6 --output-type Q8_0 --embedding-type F16"
    assert f" {again} " in card_plan.command(finished, None)


def test_the_best_types_are_chosen_for_other_tensors_alone(ruled):
    run, plan, _ = ruled
    with RunFolder(run) as held:
        session, _ = open_planned(held, None)
        session = rules.obeying(session, PlanRules((0,), None, "Q8_0"))
        candidates = variants.candidates(session.spec, ("Q2_K", "Q4_K"), by_tensor=False)
        uniform = variants.uniform_plan(session.spec, "Q2_K").tensor_types
    kept = {name for name in plan["tensor_types"] if layer_of(name) == 0 or name == "output.weight"}
    assert not kept & set(candidates.names)
    assert {layer_of(name) for name in candidates.names} == {None, *range(1, 12)}
    smallest = candidates.as_types((0,) * len(candidates.names))
    stock = {choice.name: choice.high_type for choice in session.spec.tensors.choices}
    assert {name: smallest[name] for name in kept} == {name: stock[name] for name in kept}
    assert (smallest["output.weight"], smallest["blk.1.ffn_up.weight"]) == ("Q8_0", "Q2_K")
    assert (candidates.holds(smallest), candidates.obeys(uniform), candidates.holds(uniform)) == (True, False, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep", "12"), "--keep names layer 12, but the model has 12 decoder layers."),
        (("--low-only=-13",), "--low-only names layer -13, but the model has 12 decoder layers."),
        (("--keep", "0,3", "--low-only", "2-4"), "--keep and --low-only both name layer 3."),
        (("--keep", "first"), "--keep first: 'first' is not a layer."),
        (("--output-type", "Q9"), "--output-type Q9: GGUF has no quantized type of this name."),
        (("--embedding-type", "IQ2_XS"), "this type needs importance, and token_embd.weight has none."),
        (("--keep", "0-9"), "--low-layers 3 is impossible with --keep 0,1,2,3,4,5,6,7,8,9: the model has 12 decoder"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(cli, small, ruled, arguments, words):
    run, plan, _ = ruled
    done = cli("plan", run, "--low", "Q2_K", "--low-layers", 3, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert json.loads((run / "plan.json").read_text()) == plan
