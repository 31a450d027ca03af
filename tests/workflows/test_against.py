"""verify --against and convert --check: does llama.cpp compute what transformers computes?"""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from luq_gguf.core.agreement import Agreement, Positions, SampleAgreement
from luq_gguf.core.images import open_rgb
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample
from luq_gguf.evaluation import against, drawn, reference_model
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.reporting import agreement_text
from luq_gguf.run.folder import RunFolder
from luq_gguf.workflows import against as workflow

one_model = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
LARGEST_BEHIND = {"tiny-qwen2.5-vl": 1e-3, "tiny-llava-1.5": 0.2}  # libmtmd orders CLIP's tokens differently


def agreement(before, after, *, is_16_bit: bool = True, differences: str = "", sizes=(16, 16), fitted=None):
    behind, resized = (None if kld is None else Positions(20, kld, 0.9) for kld in (after, fitted))
    sample = SampleAgreement("a.png", Positions(10, before, 1.0), behind, sizes, differences, resized)
    return Agreement("f.gguf", is_16_bit, "tq", "float32", "on two drawn pictures", (sample, sample))


def test_a_run_is_compared_on_its_own_calibration_samples(cli, small, tiny_model, tmp_path):
    done = cli("verify", small.copy(tmp_path / "run").folder, "--against", tiny_model, "--threads", 1, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["against"]
    assert (told["file"], told["is_16_bit"], told["dtype"]) == (small.f16.name, True, "float32")
    assert told["source"] == "on 2 samples of the calibration set"
    assert len(told["samples"]) == 2
    assert told["before"]["kld"] < 1e-3
    assert told["after"]["kld"] < LARGEST_BEHIND[tiny_model.name]
    assert min(told["before"]["positions"], told["after"]["positions"]) > 2
    for sample in told["samples"]:
        assert sample["token_differences"] is None
        assert sample["picture_tokens"]["transformers"] == sample["picture_tokens"]["llama_cpp"] > 1


@one_model
def test_a_file_is_compared_as_it_is_and_other_tokens_are_named(cli, small, tiny_model, tmp_path):
    for file in (small.model, small.mmproj):
        (tmp_path / file.name).symlink_to(file)
    checkpoint = tmp_path / "other"
    shutil.copytree(tiny_model, checkpoint)
    template = next(
        path for path in (checkpoint / "chat_template.jinja", checkpoint / "tokenizer_config.json") if path.is_file()
    )
    template.write_text(template.read_text().replace("assistant", "shape"))
    done = cli("verify", tmp_path / small.model.name, "--against", checkpoint, "--threads", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    words = " ".join(done.stdout.split())
    assert "quantized" in words
    assert "drawn" in words
    assert "with pictures fitted" in words
    assert "to transformers is" in words


@one_model
def test_prompts_with_two_pictures_in_one_turn_and_in_two_agree(small, tiny_model, tmp_path):
    images = [sample.images[0] for sample in drawn.samples(tmp_path)]
    with Image.open(images[1]) as wide:  # of another shape libmtmd would make other tokens
        wide.resize((drawn.SIDE, drawn.SIDE)).save(images[1])
    turns = (
        Turn("system", ("answer with one word",)),
        Turn("user", (None, "what is the color of the shape?")),
        Turn("assistant", ("red",)),
        Turn("user", ("and in this picture:", None, "is it a circle?")),
    )
    samples = [Sample("which of them is a circle?", tuple(images)), Sample.of_turns(turns, images)]
    checkpoint = open_checkpoint(str(tiny_model))
    placement = reference_model.placement_for("cpu", checkpoint, 10**12)
    told = against.compare(small.f16, small.mmproj, checkpoint, samples, placement, threads=1)
    assert [sample.differences for sample in told.samples] == ["", ""]
    assert [sample.picture for sample in told.samples] == ["circle.png, triangle.png"] * 2
    assert [sample.picture_tokens for sample in told.samples] == [(512, 512)] * 2
    assert told.samples[1].after.n > 25  # the text between the pictures, too
    assert told.before.kld < 1e-3
    assert told.after.kld < LARGEST_BEHIND[tiny_model.name]


@one_model
def test_convert_compares_the_16_bit_file_before_it_deletes_it(cli, small, tmp_path):
    run = small.copy(tmp_path / "run")
    arguments = [part for part in run.arguments if part != "--keep-f16"]
    done = cli(*arguments, "--check")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["against"]
    assert told["file"] == run.f16.name
    assert told["is_16_bit"]
    assert told["after"]["kld"] < 1e-3
    assert not run.f16.exists()


def test_another_models_checkpoint_is_refused(cli, small, models, tiny_model, tmp_path):
    other = next(path for path in models.iterdir() if path.is_dir() and path != tiny_model and "tiny" in path.name)
    done = cli("verify", small.copy(tmp_path / "run").folder, "--against", other, "--threads", 1)
    assert done.returncode == 2
    assert "Give the checkpoint that the file was made from" in done.stderr


@one_model
def test_what_fails_is_not_compared(cli, small, tiny_model, tmp_path):
    run = small.copy(tmp_path / "run")
    (run.folder / "profile.json").unlink()
    done = cli("verify", run.folder, "--against", tiny_model, "--threads", 1, "--json")
    assert done.returncode == 1
    assert "against" not in json.loads(done.stdout)
    assert "not compared" in done.stderr


def test_figures_that_are_not_finite_are_a_failure_and_still_json():
    checks = workflow._checks(agreement(math.nan, 1e-6))
    assert not checks[0].ok
    assert checks[0].hint
    assert agreement(math.nan, 1e-6).to_json()["before"]["kld"] is None


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (agreement(1e-6, 1e-4), ""),
        (agreement(1e-6, 0.3), "picture"),
        (agreement(1e-6, 0.3, fitted=1e-5), "luq-gguf fit"),
        (agreement(1e-6, 0.3, fitted=0.2), "computes or prepares the picture"),
        (agreement(0.3, 0.3), "text"),
        (agreement(0.3, 0.3, is_16_bit=False), ""),
        (agreement(0.3, None), "text"),
    ],
)
def test_a_large_divergence_has_a_hint_and_is_no_failure(found, hint):
    checks = workflow._checks(found)
    assert all(check.ok for check in checks)
    assert hint in checks[0].hint
    assert bool(hint) == bool(checks[0].hint)


def test_different_tokens_are_said_by_name_and_different_pictures_by_their_size():
    assert agreement_text.tokens(agreement(0, 0)) == "the same on both sides"
    told = agreement_text.tokens(
        agreement(0, 0, differences="'a' to transformers is nothing to llama.cpp", sizes=(234, 391))
    )
    assert (
        told
        == "'a' to transformers is nothing to llama.cpp; a picture is 234 tokens to transformers and 391 to llama.cpp"
    )


def test_one_drawn_picture_has_a_size_that_patches_divide_and_the_other_is_no_square(tmp_path):
    first, second = (np.asarray(open_rgb(sample.image)) for sample in drawn.samples(tmp_path))
    assert first.shape == (448, 448, 3)
    assert second.shape == (400, 600, 3)


def test_the_text_around_a_picture_is_replaced_in_all_that_goes_along_with_it():
    inputs = {
        "input_ids": torch.tensor([[1, 2, 9, 9, 9, 3]]),
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
        "mm_token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 0]]),
        "pixel_values": torch.zeros(3, 4),
    }
    made = reference_model.with_text(inputs, 2, 5, [7], [3, 4, 5])
    assert made["input_ids"].tolist() == [[7, 9, 9, 9, 3, 4, 5]]
    assert made["attention_mask"].tolist() == [[1] * 7]
    assert made["mm_token_type_ids"].tolist() == [[0, 1, 1, 1, 0, 0, 0]]
    assert made["pixel_values"] is inputs["pixel_values"]


def test_samples_are_of_the_recorded_set_where_it_is_still_there(models, tmp_path):
    checkpoint = open_checkpoint(str(models / "tiny-qwen2.5-vl"))
    reads_text_only = replace(checkpoint, config={k: v for k, v in checkpoint.config.items() if k != "vision_config"})
    (tmp_path / "run.json").write_text("{}")
    run = RunFolder(tmp_path)
    book, lines, picture = tmp_path / "book.txt", tmp_path / "lines.jsonl", next(iter(drawn.samples(tmp_path))).image
    book.write_text("is there a blue triangle? " * 100)
    lines.write_text("".join(json.dumps({"image": picture.name, "prompt": f"is it {n}?"}) + "\n" for n in range(5)))

    def found(checkpoint, **record):
        return workflow._of_calibration(record, checkpoint, run)

    assert [sample.image for sample in found(checkpoint, images=str(lines), text=str(book), seed=1)] == [picture] * 2
    assert len(found(reads_text_only, images=None, text=str(book), seed=1)) == 2
    assert all(s.image is None and "is it" in s.prompt for s in found(reads_text_only, images=str(lines), text=None))
    assert found(checkpoint, images=str(tmp_path / "gone.jsonl"), seed=0) == []
    assert found(checkpoint, images="owner/set") == found(reads_text_only, images="owner/set") == []
    assert found(checkpoint, images=7, text=[], seed="x") == []
    (run.work / "images").mkdir(parents=True)
    shutil.copy(picture, run.work / "images" / "a.png")
    assert [sample.image.name for sample in found(checkpoint, images="owner/set")] == ["a.png"]


def test_the_reference_is_in_float32_where_the_memory_is_enough(models):
    checkpoint = open_checkpoint(str(models / "tiny-qwen2.5-vl"))
    assert reference_model.placement_for("cpu", checkpoint, 10**12).dtype == torch.float32
    assert not reference_model.placement_for("cpu", checkpoint, 0).exact  # then as for a profile


def test_convert_prints_what_differs_and_why_that_may_be():
    text = "\n".join(agreement_text.lines(agreement(1e-6, 0.3)))
    assert "0.3" in text
    assert "the same on both sides" in text
    assert "docs/families.md" in text
    assert "docs/families.md" not in "\n".join(agreement_text.lines(agreement(1e-6, 1e-6)))
