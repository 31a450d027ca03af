"""`plan --plan best` and `--rank greedy` on a real run: what they promise, what they keep, what they refuse."""

import json
from pathlib import Path

import pytest
from gguf_parts import but_labels

from luq_gguf.llamacpp import sampled_errors
from luq_gguf.llamacpp.gguf import imatrix, quant_error, reader, splice
from luq_gguf.planning import variants
from luq_gguf.quantization import stage as quantization_stage
from luq_gguf.run import serialization
from luq_gguf.run.folder import RunFolder
from luq_gguf.run.session import open_session
from luq_gguf.workflows import easy_vqa

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")

TYPES = "Q2_K,Q3_K,Q4_K,Q6_K"  # quantized in seconds, unlike those of one bit


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 12)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return small.copy(tmp_path_factory.mktemp("best") / "run").folder


@pytest.fixture(scope="module")
def asked(run, questions):
    return ("plan", run, "--plan", "best", "--types", TYPES, "--eval", questions, "--target-bpw", 3.6)


@pytest.fixture(scope="module")
def planned(cli, asked, run):
    done = cli(*asked, "--swaps", 3, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_plan_is_within_the_budget_and_says_what_was_predicted_and_measured(planned, run):
    plan, told = planned
    assert plan["ranking"] == "best"
    assert plan["bpw"] <= 3.6
    assert plan["budget"]["per"] == "layer"
    assert plan["measured_kld"]["low"] <= plan["measured_kld"]["mean"] <= plan["measured_kld"]["high"]
    assert plan["measured_kld"]["on"]["n_samples"] == 12
    assert plan["predicted_kld"]["error"] > 0
    assert plan["predicted_kld"]["of_all_types_within_budget"]["bound"] > 0
    assert "files to measure, each on 12 questions" in told
    assert plan["predicted_kld"]["positions_saved"] > 0
    assert "racing saved" in told
    assert json.loads((run / "plan.json").read_text()) == plan


def test_nothing_it_was_compared_with_is_better_and_uniform_files_were(planned):
    plan, _ = planned
    names = [one["name"] for one in plan["compared"]]
    assert any(name.startswith("uniform ") for name in names)
    assert all(plan["measured_kld"]["mean"] <= one["kld"] for one in plan["compared"])
    assert all(one["file_bytes"] <= plan["predicted_file_bytes"] + plan["predicted_kld"]["budget_left_bytes"]
               for one in plan["compared"])  # fmt: skip


def test_the_file_it_makes_has_the_predicted_bytes_and_is_the_one_that_was_measured(cli, planned, run, tmp_path):
    plan, _ = planned
    done = cli("quantize", run, "--keep-f16", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["n_bytes"] == plan["predicted_file_bytes"]
    assert "-LUQ-best-" in made["model"]
    bank_files = [path for kind in TYPES.split(",") if (path := run / ".work" / "bank" / f"all-{kind}.gguf").exists()]
    splice.splice(bank_files, plan["tensor_types"], tmp_path / "spliced.gguf")
    assert but_labels(tmp_path / "spliced.gguf") == but_labels(Path(made["model"]))
    shown = cli("report", run)
    assert shown.returncode == 0, shown.stderr
    assert "best of many types" in (run / "report.html").read_text()


def test_the_same_command_measures_and_quantizes_nothing_again(cli, asked, planned, run):
    kept = {p: p.stat().st_mtime_ns for p in (run / ".work").glob("*/*") if p.parent.name in ("bank", "points")}
    done = cli(*asked, "--swaps", 3, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == planned[0]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert set(kept) == {p for p in (run / ".work").glob("*/*") if p.parent.name in ("bank", "points")}


def test_tensors_apart_do_no_worse_by_the_estimate_and_a_time_ends_the_search(cli, asked, planned):
    done = cli(*asked, "--per", "tensor", "--plan-minutes", 0, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["budget"]["per"] == "tensor"
    assert plan["bpw"] <= 3.6
    assert plan["predicted_kld"]["swaps_measured"] == 0


def test_predicted_bytes_of_any_choice_are_exact(run, tiny_model, tmp_path):
    with RunFolder(run) as held:
        session = open_session(held, str(tiny_model)).with_dataset(serialization.read_profile(run / "profile.json"))
        spec = session.spec
        found = variants.candidates(spec, TYPES.split(","), by_tensor=True)
        chosen = tuple(number % 4 for number in range(len(found.names)))
        plan = variants.plan_of(spec, found.as_types(chosen), "best")
        quantization_stage.quantize_plan(session, plan, tmp_path / "any.gguf")
    assert (tmp_path / "any.gguf").stat().st_size == plan.predicted_file_bytes
    assert reader.read(tmp_path / "any.gguf").types == dict(plan.tensor_types)


def test_errors_of_some_rows_are_those_of_the_bank(planned, run):
    """Quantized on the spot by the same quantizer with the same importance; beside the backward pass as well."""
    foretold = json.loads((run / "fisher.json").read_text())["errors"]
    f16 = next(path for path in run.glob("*-F16.gguf") if not path.name.startswith("mmproj-"))
    importance, originals = imatrix.read(run / "imatrix.gguf"), quant_error.tensors_of(f16)
    kinds = [kind for kind in TYPES.split(",") if (run / ".work" / "bank" / f"all-{kind}.gguf").exists()]
    names = [name for name in foretold if name.startswith(("blk.0.", "blk.7."))]
    assert kinds
    assert len(names) == 14
    wanted = dict.fromkeys(names, kinds)
    sampled = sampled_errors.sampled_errors(f16, run / "imatrix.gguf", wanted, quant_error.ROWS)
    for kind in kinds:
        tensors = quant_error.tensors_of(run / ".work" / "bank" / f"all-{kind}.gguf")
        for name in names:
            rows = quant_error.rows_of(originals[name], quant_error.ROWS)
            weights, quantized = (quant_error.values_of(of[name], rows) for of in (originals, tensors))
            columns = quant_error.columns_of(importance, originals[name], rows)
            lost = quant_error.share_lost(weights, quantized, columns)
            assert sampled[name][kind] == pytest.approx(lost, rel=1e-6), (name, kind)
            assert foretold[name][kind] == pytest.approx(lost, rel=1e-3), (name, kind)
    for name in names:
        lost_of = [sampled[name][kind] for kind in kinds]
        assert lost_of == sorted(lost_of, reverse=True), f"more bits lose less: {name}"


def test_convert_ends_with_what_is_predicted_to_be_better(cli, converted, tmp_path):
    baseline = converted.result["foreseen"]
    assert baseline["file_bytes"] <= converted.result["n_bytes"]
    assert baseline["error_sum"] < baseline["error_sum_of_plan"], "uniform three bits lose less than six layers of 1.75"
    told = cli(*converted.copy(tmp_path / "run").arguments[:-1]).stdout.strip().splitlines()[-1]
    assert told == converted.result["better"]
    assert told.startswith("predicted, not measured: llama-quantize's ")


def test_greedy_measures_steps_and_is_no_worse_than_the_papers_order(cli, run, questions):
    def plan(rule):
        done = cli("plan", run, "--rank", rule, "--low", "Q2_K", "--low-layers", 3, "--eval", questions, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    greedy, told = plan("greedy")
    assert "greedy: about 14 files to measure for 3 low layers" in told
    assert greedy["ranking"] == "greedy"
    assert len(greedy["low_layers"]) == 3
    assert greedy["compared"][0]["name"].startswith("uniform ")
    measured = cli("sweep", run, "--data", questions, "--low", "Q2_K", "--low-layers", 3, "--order", "entropy",
                   "--uniform", "none", "--json")  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert greedy["measured_kld"]["mean"] <= json.loads(measured.stdout)["points"][0]["metrics"]["kld"]["mean"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--plan", "best", "--low-layers", 3), "--plan best needs a size"),
        (("--plan", "best", "--target-bpw", 1.0), "smallest text model takes"),
        (("--plan", "best", "--target-bpw", 3, "--types", "Q9_X"), "GGUF has no quantized type of this name"),
        (("--plan", "best", "--target-bpw", 3, "--rank", "kld"), "--rank kld orders layers for --plan luq"),
        (("--target-bpw", 3, "--types", "Q2_K"), "--types can only be used with --plan best"),
        (("--plan", "best", "--target-bpw", 3, "--max-kld", 1), "no other budget"),
    ],
)
def test_wrong_use_is_told(cli, run, questions, arguments, told):
    done = cli("plan", run, "--eval", questions, *arguments)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_questions_it_is_refused_before_anything_heavy(cli, tiny_model, tmp_path):
    done = cli("convert", tiny_model, "--out", tmp_path / "run", "--plan", "best", "--target-bpw", 3)
    assert done.returncode == 2
    assert "Give --eval SET" in done.stderr
    assert not (tmp_path / "run").exists()
