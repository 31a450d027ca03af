"""`luq-gguf eval --against`: where quality is lost between a checkpoint in transformers and a file."""

import json

import pytest
from PIL import Image

from luq_gguf.workflows import easy_vqa

WIDE = (150, 100)  # pixels: libmtmd pads such a picture, and the processors stretch or crop it
FITTED = {"tiny-qwen2.5-vl": 1e-4, "tiny-llava-1.5": 5e-3}  # nats; libmtmd orders CLIP's tokens differently


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Twelve questions about pictures that are not square."""
    path = easy_vqa.write_set(tmp_path_factory.mktemp("wide"), "test", 12)
    for picture in path.parent.glob("*.png"):
        with Image.open(picture) as image:
            image.resize(WIDE, Image.Resampling.BICUBIC).save(picture)
    return path


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return small.copy(tmp_path_factory.mktemp("against") / "run").folder


@pytest.fixture(scope="module")
def asked(run, small, questions, tiny_model):
    reference = ("--reference", run / small.f16.name)
    return ("eval", run / small.model.name, *reference, "--data", questions, "--max-tokens", 4, "--against", tiny_model)


@pytest.fixture(scope="module")
def compared(cli, asked):
    done = cli(*asked, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def models_of(result):
    return {(model["name"], model["pictures"]): model for model in result["against"]["models"]}


def test_four_figures_say_where_quality_is_lost(compared, small, tiny_model):
    against = compared["against"]
    assert (against["checkpoint"], against["dtype"], against["n_samples"]) == (tiny_model.name, "float32", 12)
    models = models_of(compared)
    order = [("transformers", None), ("16-bit file", "as_is"), ("16-bit file", "fitted"), ("file", "as_is")]
    assert list(models) == order
    as_is, fitted, file = (models[key] for key in order[1:])
    assert as_is["kld"]["value"] > 20 * fitted["kld"]["value"]
    assert fitted["kld"]["value"] < FITTED[tiny_model.name]
    assert fitted["same_answers"] == 1
    assert fitted["accuracy"] == models["transformers", None]["accuracy"]
    assert fitted["accuracy_change"]["value"] == 0
    assert file["file"] == small.model.name
    assert as_is["accuracy"] == compared["reference_accuracy"]
    assert file["accuracy"] == compared["accuracy"]


def test_the_report_shows_them_and_nothing_is_asked_twice(cli, asked, compared, run):
    kept = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == kept
    words = " ".join(done.stdout.split())
    assert "transformers (float32)" in words
    assert "fitted pictures" in words
    assert cli("report", run).returncode == 0
    assert "From the checkpoint to the file" in (run / "report.html").read_text()


def test_fitted_pictures_alone_leave_what_quantization_costs(cli, asked, compared):
    done = cli(*asked, "--fit-images", "--json")
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    last = fitted["against"]["models"][-1]
    assert (last["name"], last["pictures"]) == ("file", "fitted")
    assert last["accuracy"] == fitted["accuracy"]
    assert models_of(fitted)["16-bit file", "fitted"] == models_of(compared)["16-bit file", "fitted"]


def test_text_alone_is_refused(cli, small, tiny_model, tmp_path):
    (tmp_path / "text.txt").write_text("is there a circle? " * 400)
    model = small.copy(tmp_path / "run").model
    done = cli("eval", model, "--text", tmp_path / "text.txt", "--chunks", 1, "--against", tiny_model)
    assert done.returncode == 2
    assert "Give --data SET with --against" in done.stderr
