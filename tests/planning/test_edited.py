"""A plan.json that a user has edited: what is written of it, and what is refused."""

import json

import pytest

from luq_gguf.llamacpp.gguf import reader
from luq_gguf.publishing import artifacts, card_plan
from luq_gguf.run.folder import RunFolder

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="module")
EDITS = {"blk.2.ffn_down.weight": "q8_0", "blk.3.attn_v.weight": "F16", "output.weight": "Q5_K"}


def edit(run, changes):
    path = run / "plan.json"
    content = json.loads(path.read_text())
    content["tensor_types"] |= changes
    path.write_text(json.dumps({**content, "tensor_types": {k: v for k, v in content["tensor_types"].items() if v}}))
    return content


@pytest.fixture(scope="module")
def edited(cli, small, tmp_path_factory):
    """A run folder whose plan.json was edited before its file was made again, and what `quantize` printed."""
    run = small.copy(tmp_path_factory.mktemp("edited") / "run").folder
    edit(run, EDITS)
    done = cli("quantize", run, "--threads", 1, "--keep-f16", "--json")
    assert done.returncode == 0, done.stderr
    assert "plan.json was edited: its types are quantized as they are" in done.stderr
    return run, json.loads(done.stdout)


def test_the_types_are_written_as_they_are_and_sizes_follow_them(edited, small):
    run, result = edited
    info, plan = reader.read(run / result["model"]), json.loads((run / "plan.json").read_text())
    before = reader.read(small.model).types
    assert info.types == before | {name: kind.upper() for name, kind in EDITS.items()} == plan["tensor_types"]
    assert info.n_bytes == result["n_bytes"] == plan["predicted_file_bytes"]
    assert plan["predicted_bytes"] == sum(tensor.n_bytes for tensor in info.tensors)
    assert plan["bpw"] == pytest.approx(info.bpw)
    assert plan["ranking"] == "edited"


def test_the_file_is_not_named_after_the_rule_that_it_does_not_follow(edited, small):
    run, result = edited
    assert (run / result["model"]).name.startswith("tiny-qwen2.5-vl-LUQ-edited-Q2K-Q80-")
    finished = artifacts.collect(RunFolder(run))
    assert card_plan.why(finished) == "Types were chosen by hand, which is not the LUQ rule: plan.json was edited."
    folder = (run / result["model"]).name.removesuffix(".gguf").rpartition("-")[0]
    assert card_plan.command(finished, None).endswith(f" && cp {folder}/plan.json out && luq-gguf quantize out")


def test_verify_follows_it_and_nothing_is_made_again(cli, edited):
    run, result = edited
    done = cli("verify", run, "--threads", 1)
    assert done.returncode == 0, done.stdout
    before = json.loads((run / "run.json").read_text())["stages"]
    done = cli("quantize", run, "--threads", 1, "--keep-f16", "--json")
    assert json.loads(done.stdout) == result
    assert "was edited" not in done.stderr
    assert json.loads((run / "run.json").read_text())["stages"] == before


def test_another_layout_of_the_same_plan_is_no_edit(cli, small, tmp_path):
    run = small.copy(tmp_path / "run").folder
    edit(run, {})
    done = cli("quantize", run, "--threads", 1, "--keep-f16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == str(run / small.model.name)


def test_files_are_not_compared_under_a_name_that_is_not_theirs(cli, small, tmp_path):
    run = small.copy(tmp_path / "run").folder
    edit(run, EDITS)
    done = cli("bench", "--run", run)
    assert done.returncode == 2
    assert "plan.json was edited after its file was made." in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"blk.12.ffn_up.weight": "Q4_K"},
            "the tensor blk.12.ffn_up.weight, which tiny-qwen2.5-vl does not have",
        ),
        ({"blk.0.ffn_up.weight": None}, "has no type for the tensor blk.0.ffn_up.weight"),
        ({"blk.0.ffn_up.weight": "Q9_K"}, "gives blk.0.ffn_up.weight the type Q9_K, which GGUF does not have"),
        ({"token_embd.weight": "IQ2_XS"}, "gives token_embd.weight the type IQ2_XS, which needs an importance entry"),
        (
            {"blk.0.attn_norm.weight": "Q8_0"},
            "attn_norm.weight the type Q8_0, but llama-quantize would write it in F32",
        ),
        ({"blk.0.attn_q.bias": "Q4_K"}, "blk.0.attn_q.bias the type Q4_K, but llama-quantize would write it in F32"),
    ],
)
def test_an_impossible_edit_is_refused_by_the_tensors_name(cli, small, tmp_path, changes, words):
    run = small.copy(tmp_path / "run").folder
    edit(run, changes)
    done = cli("quantize", run)
    assert done.returncode == 2
    assert words in done.stderr
    assert small.model.name in {path.name for path in run.iterdir()}


def test_rules_of_quantize_change_the_plan_and_the_plan_stays_as_they_made_it(cli, small, tmp_path):
    run = small.copy(tmp_path / "run").folder
    before = json.loads((run / "plan.json").read_text())
    kept, low = before["low_layers"][0], before["low_layers"][1:]
    asked = ("--threads", 1, "--keep-f16", "--json")
    done = cli("quantize", run, "--keep", kept, "--output-type", "Q8_0", *asked)
    assert done.returncode == 0, done.stderr
    result, plan = json.loads(done.stdout), json.loads((run / "plan.json").read_text())
    assert (plan["low_layers"], plan["ranking"]) == (low, "entropy")
    assert plan["rules"] == {"keep": [kept], "output_type": "Q8_0"}
    info = reader.read(run / result["model"])
    assert info.types == plan["tensor_types"]
    assert info.types["output.weight"] == "Q8_0"
    assert info.n_bytes == plan["predicted_file_bytes"] == result["n_bytes"]
    assert (run / result["model"]).name.startswith("tiny-qwen2.5-vl-LUQ5-Q2K-Q4KM-")
    words = card_plan.command(artifacts.collect(RunFolder(run)), None)
    planned = cli("plan", run, *words[words.index("--keep") :].split(), "--json")
    assert json.loads(planned.stdout)["tensor_types"] == plan["tensor_types"]
    again = cli("quantize", run, *asked)
    assert json.loads(again.stdout) == result
    done = cli("quantize", run, "--low-only", low[-1], *asked)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["low_layers"] == [low[-1]]
    assert plan["rules"] == {"keep": [n for n in range(12) if n != low[-1]], "output_type": "Q8_0"}
