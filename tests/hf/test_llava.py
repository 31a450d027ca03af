"""LLaVA-1.5's vision half, which luq-gguf writes itself: what its processor does to pictures, in libmtmd's keys."""

import json
import shutil
from dataclasses import replace

import pytest
from families.llava import as_libmtmd_orders_clip
from PIL import Image

from luq_gguf.core.types import Sample
from luq_gguf.evaluation import against
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.devices import choose_device
from luq_gguf.llamacpp.gguf import mmproj, reader
from luq_gguf.method.metrics.kld import kl_divergence

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-llava-1.5"], indirect=True, scope="session")
STRETCHING = {"do_center_crop": False, "size": {"height": 112, "width": 112}}


@pytest.fixture
def with_processor(tiny_model, tmp_path):
    """Makes a checkpoint that differs in entries of its processor, and its mmproj."""

    def make(entries):
        folder = shutil.copytree(tiny_model, tmp_path / "odd", ignore=lambda *_: ["model.safetensors"])
        (folder / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
        whole = json.loads((folder / "processor_config.json").read_text())
        whole["image_processor"] |= entries
        (folder / "processor_config.json").write_text(json.dumps(whole))
        checkpoint = open_checkpoint(str(folder))
        vision = llava.clip_vision(checkpoint)
        source = {ours: theirs for theirs, ours in llava.vision_names(checkpoint, vision).items()}
        shapes = {name: checkpoint.shapes[source[name]] for name in source}
        path = tmp_path / "mmproj.gguf"
        mmproj.write(path, "odd", vision, shapes, lambda name: llava.read_tensor(checkpoint, source[name]))
        return checkpoint, path

    return make


def _kld(checkpoint, model, half, picture, question):
    placement = replace(choose_device("cpu", checkpoint), exact=True)
    with as_libmtmd_orders_clip():
        (pair,) = against.predictions(model, half, checkpoint, [Sample(question, (picture,))], placement)
    return kl_divergence(pair.reference[pair.n_before :], pair.file[pair.n_before :]).mean()


@pytest.mark.parametrize("entries", [{"rescale_factor": 1 / 127.5}, {"do_normalize": False}, {"do_rescale": False}])
def test_pixels_are_scaled_as_the_processor_scales_them(with_processor, small, test_set, entries):
    picture, question, _ = test_set[0]
    checkpoint, half = with_processor(entries)
    assert _kld(checkpoint, small.f16, half, picture, question) < 1e-6


def test_a_processor_that_stretches_a_picture_is_followed(with_processor, small, test_set, tmp_path):
    picture, question, _ = test_set[0]
    wide = tmp_path / "wide.png"
    with Image.open(picture) as square:
        square.resize((150, 100), Image.Resampling.BICUBIC).save(wide)
    checkpoint, half = with_processor(STRETCHING)
    assert _kld(checkpoint, small.f16, small.mmproj, wide, question) > 1e-2  # with bars
    assert _kld(checkpoint, small.f16, half, wide, question) < 1e-3


def test_a_usual_processor_asks_for_nothing_unusual(with_processor, tiny_model):
    checkpoint, half = with_processor({})
    vision, config = llava.clip_vision(checkpoint), json.loads((tiny_model / "processor_config.json").read_text())
    assert list(vision.image_mean) == config["image_processor"]["image_mean"]
    assert list(vision.image_std) == config["image_processor"]["image_std"]
    assert "clip.vision.image_grid_pinpoints" not in reader.read(half).metadata
