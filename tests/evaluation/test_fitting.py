"""With fitted pictures the 16-bit file predicts what transformers predicts of the pictures as they are."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from luq_gguf.core import machine
from luq_gguf.core.images import open_rgb
from luq_gguf.core.types import Sample
from luq_gguf.evaluation import against, reference_model
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.run import serialization
from luq_gguf.run.pictures import open_geometry


@pytest.fixture(scope="module")
def questions(test_set, tmp_path_factory):
    """Two questions about pictures of 150 x 100 pixels, as a set."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for number, (picture, prompt, answer) in enumerate(test_set[:2]):
        name = f"{number}.png"
        Image.open(picture).convert("RGB").resize((150, 100)).save(folder / name)
        rows.append({"image": name, "prompt": prompt, "answers": [answer]})
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, [Sample(row["prompt"], (folder / row["image"],)) for row in rows]


def test_fitted_pictures_are_what_the_processor_makes(small, tiny_model, questions, tmp_path):
    checkpoint, (_, samples) = open_checkpoint(str(tiny_model)), questions
    placement = reference_model.placement_for("cpu", checkpoint, machine.memory().available)
    fitted = []
    with open_geometry(checkpoint, (small.f16, small.mmproj)) as geometry:
        for sample in samples:
            written = geometry.write(sample.image, tmp_path / sample.image.name).written
            fitted.append(Sample(sample.prompt, (written,)))
    agreement = against.compare(small.f16, small.mmproj, checkpoint, [*samples, *fitted], placement)
    parts = agreement.samples[:2], agreement.samples[2:]
    as_is, mended = (max(sample.after.kld for sample in part) for part in parts)
    print(f"{checkpoint.name}: as is {as_is:.1e}, fitted {mended:.1e}")
    assert mended <= 1e-4 < 1e-3 < as_is


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True)
def test_eval_measures_fitted_pictures_beside_others(cli, small, questions, tmp_path):
    run = small.copy(tmp_path / "run")
    before = set((run.folder / ".work" / "eval").glob("file-alone-*"))
    command = ("eval", run.model, "--data", questions[0], "--max-tokens", "4", "--json")
    plain, fitted, again = (json.loads(cli(*command, *more).stdout) for more in ((), ("--fit-images",), ()))
    assert plain == again
    assert fitted["conditions"].pop("fit_images")
    assert "fit_images" not in plain["conditions"]
    assert fitted["conditions"] == plain["conditions"]
    written = list((run.folder / ".work" / "eval" / "fitted").glob("*/*.png"))
    assert [open_rgb(path).size for path in written] == [(140, 112)] * 2
    assert len(set((run.folder / ".work" / "eval").glob("file-alone-*")) - before) == 2
    results = serialization.read_evals(run.folder / "eval.json")
    assert [result.conditions.has_fitted_images for result in results] == [False, True]


def test_a_file_outside_a_run_folder_has_no_processor_to_fit_for(cli, small, questions, tmp_path):
    for file in (small.f16, small.mmproj):
        (tmp_path / file.name).symlink_to(file)
    done = cli("eval", tmp_path / small.f16.name, "--data", questions[0], "--fit-images")
    assert done.returncode == 2
    assert "is not in a run folder" in done.stderr
