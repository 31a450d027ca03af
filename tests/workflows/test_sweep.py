"""`luq-gguf sweep` on a real run: its points, what a second one repeats, and what a kill costs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from luq_gguf.method.orders import SWEPT, is_seeded
from luq_gguf.workflows import easy_vqa

pytestmark = [
    pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session"),
    pytest.mark.usefixtures("rates_of_its_own"),
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 20)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return small.copy(tmp_path_factory.mktemp("sweep") / "run").folder


@pytest.fixture(scope="module")
def arguments(run, questions):
    return ("sweep", run, "--data", questions, "--max-tokens", 4, "--low", "Q2_K", "--low-layers", "0,1,12")


@pytest.fixture(scope="module")
def swept(cli, arguments):
    done = cli(*arguments, "--uniform", "Q2_K", "--random-seeds", 2, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_points_have_the_contracts_keys_for_every_order_and_number(swept, run):
    points = swept["points"]
    for point in points:
        assert {"order", "seed", "n_low", "n_bytes", "average_bits", "metrics"} <= set(point)
        assert {"accuracy", "kld", "same_top"} <= set(point["metrics"])
    found = [(p["order"], p["seed"], p["n_low"]) for p in points if p["n_low"] is not None]
    assert {"entropy", "entropy-desc", "random", "kld", "fisher"} <= set(SWEPT)
    orders = [(name, seed) for name in SWEPT for seed in range(2 if is_seeded(name) else 1)]
    assert found == [(*order, n) for order in orders for n in (0, 1, 12)]
    assert [p["order"] for p in points if p["n_low"] is None] == ["uniform Q2_K", "uniform F16"]
    assert json.loads((run / "sweep.json").read_text()) == swept


def test_the_ends_are_the_same_for_every_order_and_the_kld_order_begins_with_the_least(swept):
    by_count = {n: [p for p in swept["points"] if p["n_low"] == n] for n in (0, 1, 12)}
    for n in (0, 12):
        assert len({p["metrics"]["kld"]["mean"] for p in by_count[n]}) == 1
    single = {p["order"]: p["metrics"]["kld"]["mean"] for p in by_count[1]}
    assert single["kld"] == min(single.values())
    assert by_count[12][0]["metrics"]["kld"]["mean"] > by_count[0][0]["metrics"]["kld"]["mean"]
    assert by_count[12][0]["n_bytes"] < by_count[0][0]["n_bytes"]
    assert 2.625 <= by_count[12][0]["average_bits"] < 2.725  # Q2_K, and norms and biases in 32 bits
    f16 = swept["points"][-1]
    assert f16["metrics"]["kld"]["mean"] <= f16["metrics"]["kld"]["floor"]


def test_a_plan_by_gradients_takes_the_layers_that_are_foretold_to_cost_least(cli, run, swept):
    """The sweep has made fisher.json already; nothing is measured, so no questions are needed."""
    kept = (run / "fisher.json").stat().st_mtime_ns
    done = cli("plan", run, "--rank", "fisher", "--low", "Q2_K", "--low-layers", 5, "--json")
    assert done.returncode == 0, done.stderr
    plan, foretold = json.loads(done.stdout), json.loads((run / "fisher.json").read_text())
    assert (run / "fisher.json").stat().st_mtime_ns == kept
    assert plan["ranking"] == "fisher"
    alone = [0.0] * 12
    for name, klds in foretold["klds"].items():
        if name.startswith("blk."):
            alone[int(name.split(".")[1])] += klds["Q2_K"] - min(klds.values())
    assert sorted(plan["order"], key=lambda layer: alone[layer]) == plan["order"]
    assert plan["low_layers"] == sorted(plan["order"][:5])
    first = {p["order"]: p["low_layers"] for p in swept["points"] if p["n_low"] == 1}
    assert first["fisher"] == plan["order"][:1]
    assert foretold["n_samples"] == 16, "those with pictures"


def test_a_point_is_what_eval_measures_of_the_small_file(cli, arguments, run, small, questions, swept):
    done = cli(*arguments, "--low-layers", 6, "--order", "entropy", "--uniform", "none", "--json")
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout)["points"][0]
    assert point["low_layers"] == small.result["low_layers"]
    assert point["n_bytes"] == small.model.stat().st_size
    more = ("--reference", run / small.f16.name, "--data", questions, "--max-tokens", 4, "--json")
    alone = cli("eval", run / small.model.name, *more)
    assert json.loads(alone.stdout)["kld"] == point["metrics"]["kld"]


def test_a_killed_sweep_repeats_one_point_at_most(arguments, run, swept):
    points = run / ".work" / "points"
    for path in points.glob("*.json"):
        path.unlink()
    command = [sys.executable, "-m", "luq_gguf", *map(str, arguments), "--order", "entropy", "--order", "kld"]
    command += ["--uniform", "none"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(6000):
        if len(list(points.glob("*.json"))) >= 4 or child.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in points.glob("*.json")}
    assert len(kept) >= 4
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert len(list(points.glob("*.json"))) == 14  # none, all, and each layer alone
    assert not list(points.glob("*.gguf"))
    assert not (points / "scratch").exists()


def test_numbers_that_are_none_are_refused(cli, arguments, swept):
    done = cli(*arguments, "--low-layers", "0,x")
    assert done.returncode == 2
    assert "'x' is not a number" in done.stderr


def test_a_plan_ranked_by_divergence_takes_the_layers_that_cost_least_alone(cli, run, questions, swept):
    done = cli("plan", run, "--low", "Q2_K", "--rank", "kld", "--low-layers", 1, "--eval", questions, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["ranking"] == "kld"
    alone = next(p for p in swept["points"] if (p["order"], p["n_low"]) == ("kld", 1))
    assert plan["low_layers"] == alone["low_layers"]


def test_a_bound_on_divergence_is_met_and_what_was_tried_is_kept(cli, run, questions, swept):
    ends = [p["metrics"]["kld"]["mean"] for p in swept["points"] if p["order"] == "entropy"]
    bound = (ends[0] + ends[-1]) / 2
    done = cli("plan", run, "--low", "Q2_K", "--max-kld", bound, "--eval", questions, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    tried = {t["n_low"]: t for t in plan["budget"]["tried"]}
    assert len(plan["low_layers"]) in range(1, 12)
    assert tried[len(plan["low_layers"])]["figure"] <= bound
    assert not any(t["meets"] for n, t in tried.items() if n > len(plan["low_layers"]))
    assert plan["budget"]["max_kld"] == bound


def test_a_bound_that_nothing_meets_tells_the_best(cli, run, questions, swept):
    done = cli("plan", run, "--low", "Q2_K", "--min-accuracy", 1.1, "--eval", questions)
    assert done.returncode == 2
    assert "No number of low layers meets --min-accuracy 1.1" in done.stderr


def test_bounds_on_quality_need_questions_before_anything_heavy(cli, tiny_model, tmp_path):
    done = cli("convert", tiny_model, "--out", tmp_path / "run", "--max-kld", 0.01)
    assert done.returncode == 2
    assert "Give --eval SET" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_report_is_one_page_that_needs_nothing_else(cli, run, swept):
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    page = (run / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    drawn = {path.name for path in (run / "figures").glob("*.png")}
    assert {"entropy.png", "modality.png", "order-kld.png", "order-accuracy.png", "trade-off.png", "types.png"} <= drawn
    assert page.count("data:image/png;base64,") == len(drawn)
    for path in (run / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    assert "LUQ, 12 low" in page
    assert "Conditions: reference:" in page
    before = {path: path.read_bytes() for path in (run / "figures").glob("*.png")}
    assert cli("report", run).returncode == 0
    assert {path: path.read_bytes() for path in before} == before


def test_convert_takes_bounds_on_quality_and_refuses_a_speed_out_of_reach_before_it_profiles(
    cli, tiny_model, calibration_file, questions, tmp_path
):
    rows = [json.loads(line) for line in calibration_file.read_text().splitlines()[:12]]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(r | {"image": str(calibration_file.parent / r["image"])}) + "\n" for r in rows))
    asked = ("convert", tiny_model, "--calib", few, "--samples", 12, "--low", "Q2_K")
    done = cli(*asked, "--out", tmp_path / "kld", "--max-kld", 1, "--eval", questions, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["low_layers"] == list(range(12))
    assert "calibrated with" not in done.stderr
    seen = cli(*asked, "--out", tmp_path / "kld", "--max-kld", 1)  # measured on what it was calibrated with
    assert seen.returncode == 0, seen.stderr
    assert "files are measured on questions of --calib, as there is no --eval" in seen.stderr
    sentence = "of 12 questions 12 were calibrated with and 6 have pictures that were: others may give worse figures"
    assert sentence in seen.stderr
    assert sentence in seen.stdout
    plan = json.loads((tmp_path / "kld" / "plan.json").read_text())
    assert plan["measured_kld"]["on"]["shared_lines"] == plan["budget"]["measured_on"]["shared_lines"] == 12
    refused = cli(*asked, "--out", tmp_path / "tps", "--target-tps", 10**9)
    assert refused.returncode == 2
    assert "reaches 1e+09 tokens/s on this machine" in refused.stderr
    assert not (tmp_path / "tps").exists()
