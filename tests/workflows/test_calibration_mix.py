"""`luq-gguf sweep --alpha` on a real run: each point is the file that `convert --alpha` would make."""

import json

import pytest

from luq_gguf.workflows import easy_vqa

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return easy_vqa.write_set(tmp_path_factory.mktemp("questions"), "test", 16)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return small.copy(tmp_path_factory.mktemp("alpha") / "run").folder


@pytest.fixture(scope="module")
def arguments(run, questions, calibration_file):
    few = ("--order", "entropy", "--low-layers", "6", "--uniform", "none", "--alpha", "0.5,1", "--alpha-layers", "6")
    asked = ("sweep", run, "--low", "Q2_K", "--data", questions, "--max-tokens", 4)
    return (*asked, *few, "--calib", calibration_file, "--calib-samples", 32)


@pytest.fixture(scope="module")
def ablated(cli, arguments):
    done = cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def point(ablated, alpha, changes):
    return next(p for p in ablated["alpha"]["points"] if (p["alpha"], p["changes"]) == (alpha, changes))


def test_at_the_runs_own_alpha_nothing_changes(ablated, run):
    assert ablated["alpha"]["run_alpha"] == 0.5
    arms = [point(ablated, 0.5, arm) for arm in ("both", "ranking", "imatrix")]
    assert all(arm["metrics"] == arms[0]["metrics"] for arm in arms)
    swept = next(p for p in ablated["points"] if p["n_low"] == 6)
    assert arms[0]["metrics"] == swept["metrics"]
    assert json.loads((run / "alpha.json").read_text()) == ablated["alpha"]


def test_a_point_is_the_file_that_convert_makes_with_that_alpha(
    ablated, cli, run, small, tiny_model, calibration_file, questions, tmp_path
):
    out = tmp_path / "one"
    asked = ("convert", tiny_model, "--out", out, "--calib", calibration_file, "--samples", 32, "--low", "Q2_K")
    done = cli(*asked, "--low-layers", 6, "--alpha", 1, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    reference = run / small.f16.name
    measured = cli("eval", made["model"], "--reference", reference, "--data", questions, "--max-tokens", 4, "--json")
    assert measured.returncode == 0, measured.stderr
    both, imatrix = point(ablated, 1, "both"), point(ablated, 1, "imatrix")
    assert both["low_layers"] == made["low_layers"]
    assert both["n_bytes"] == made["n_bytes"]
    assert both["metrics"]["kld"]["mean"] == json.loads(measured.stdout)["kld"]["mean"]
    assert imatrix["low_layers"] == point(ablated, 0.5, "both")["low_layers"]
    assert imatrix["metrics"]["kld"]["mean"] != point(ablated, 0.5, "both")["metrics"]["kld"]["mean"]


def test_a_second_time_measures_nothing_and_leaves_no_bank(cli, arguments, ablated, run):
    done = cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ablated
    assert "16/16" not in done.stderr
    assert not list((run / ".work").glob("alpha-*/.work/bank"))


def test_other_calibration_data_are_refused_before_anything_is_measured(cli, arguments):
    done = cli(*arguments[:-1], 16)
    assert done.returncode == 2
    assert "profiled with calibration data other than" in done.stderr


def test_a_share_beyond_one_is_refused(cli, run, questions):
    done = cli("sweep", run, "--data", questions, "--alpha", "0.5,2")
    assert done.returncode == 2
    assert "Write 0,0.25,0.5,0.75,1" in done.stderr


def test_the_report_shows_what_alpha_does(cli, ablated, run):
    done = cli("report", run)
    assert done.returncode == 0, done.stderr
    page = (run / "report.html").read_text()
    assert "what changes with alpha" not in page  # in the image only
    assert "importance alone" in page
    assert (run / "figures" / "alpha-6.png").exists()
    assert (run / "figures" / "sizes.png").exists()
