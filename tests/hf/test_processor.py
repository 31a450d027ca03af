"""Image processors as checkpoints name them, and pictures that they reject."""

import json
import shutil

import numpy as np
import pytest
from families import by_name
from PIL import Image

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.processor import PictureCheck, load_processor


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A trained model's folder, to be changed."""
    folder = shutil.copytree(tiny_model, tmp_path / tiny_model.name, ignore=lambda *_: ["model.safetensors"])
    (folder / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
    return folder


@pytest.mark.parametrize("place", ["processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("kind", ["Qwen2_5_VLImageProcessor", "{}Fast"])
def test_an_image_processor_of_another_version_is_the_models_own(copy, place, kind):
    before = load_processor(copy).image_processor
    whole = json.loads((copy / "processor_config.json").read_text())
    pictures = whole["image_processor"]
    pictures["image_processor_type"] = kind.format(pictures["image_processor_type"])
    if place != "processor_config.json":
        del whole["image_processor"]
        (copy / place).write_text(json.dumps(pictures | {"processor_class": whole["processor_class"]}))
    (copy / "processor_config.json").write_text(json.dumps(whole))
    after = load_processor(copy).image_processor
    picture = Image.radial_gradient("L").resize((150, 90)).convert("RGB")
    made = [processor(images=[picture], return_tensors="np")["pixel_values"] for processor in (before, after)]
    assert np.array_equal(*made)


def test_a_picture_that_the_processor_rejects_is_told_from_one_that_it_takes(tiny_model):
    check = PictureCheck(open_checkpoint(str(tiny_model)))
    for size in ((64, 64), (1, 1), (3, 400), (400, 3), (2000, 10)):
        check(Image.new("RGB", size))
    if "qwen" in tiny_model.name:
        for size in ((2275, 10), (10, 2275)):
            with pytest.raises(ValueError, match="aspect ratio"):
                check(Image.new("RGB", size))
    else:
        check(Image.new("RGB", (2275, 10)))  # CLIP's processor crops


def test_a_checkpoint_without_an_image_processor_is_refused_when_it_meets_a_picture(copy):
    (copy / "processor_config.json").unlink()
    check = PictureCheck(open_checkpoint(str(copy)))
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        check(Image.new("RGB", (64, 64)))


@pytest.mark.parametrize("name", ["gemma-4", "minicpm-v-4.6", "glm-ocr", "qwen3-vl"])
def test_processors_that_are_given_a_video_processor_in_different_ways(name, tmp_path):
    """By keyword, by position in the middle, by a class that only the checkpoint's files name, and last."""
    family = by_name(name)
    tokenizer = family.make_tokenizer(tmp_path)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in family.controls}
    model, processor = family.make(tokenizer, ids)
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    loaded = load_processor(tmp_path)
    assert type(loaded).__name__ == type(processor).__name__
    assert "video_processor" not in json.loads((tmp_path / "processor_config.json").read_text())
    pictures = [[Image.new("RGB", (64, 64))]]
    inputs = loaded(images=pictures, text=[f"{family.image} what is it?"], return_tensors="pt")
    assert model.config.image_token_id in inputs["input_ids"][0].tolist()
    assert inputs["pixel_values"].is_floating_point()
    assert loaded(text=["what is it?"], return_tensors="pt")["input_ids"].shape[1] > 2
    if name == "glm-ocr":  # of which transformers has no processor by the config alone
        for file in ("processor_config.json", "tokenizer_config.json"):
            content = json.loads((tmp_path / file).read_text())
            (tmp_path / file).write_text(json.dumps({k: v for k, v in content.items() if k != "processor_class"}))
        assert not hasattr(load_processor(tmp_path), "image_processor")
