"""What the trained models' processors and the real libmtmd make of pictures."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from luq_gguf.core.errors import CheckpointError
from luq_gguf.core.fit_rule import FitRule
from luq_gguf.core.picture_geometry import LimitOptions
from luq_gguf.core.shown_pictures import ShownPictures
from luq_gguf.hf import llava
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.llamacpp.gguf import mmproj
from luq_gguf.llamacpp.runtime import saved_chunk
from luq_gguf.run.pictures import header_files, open_geometry, shown_pictures

QWEN, LLAVA = "tiny-qwen2.5-vl", "tiny-llava-1.5"
ODD = [(150, 100), (640, 480), (1000, 30)]


@pytest.fixture(scope="module")
def geometries(models):
    """Both models by name, with headers of files in the place of files."""
    with (
        open_geometry(open_checkpoint(str(models / QWEN))) as qwen,
        open_geometry(open_checkpoint(str(models / LLAVA))) as llava,
    ):
        yield {QWEN: qwen, LLAVA: llava}


def _drawn(size):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_qwen_stretches_and_libmtmd_adds_bars(geometries):
    views = geometries[QWEN].views((150, 100))
    assert (views.processor.size, views.processor.n_tokens, views.processor.how) == ((140, 112), 20, "resized")
    assert (views.libmtmd.size, views.libmtmd.n_tokens, views.libmtmd.how) == ((140, 112), 20, "padded")
    assert views.libmtmd.content == (140, 94)


def test_token_limits_of_both_sides_are_seen(geometries):
    views = geometries[QWEN].views((640, 480))
    assert (views.processor.n_tokens, views.libmtmd.n_tokens) == (234, 391)
    assert geometries[QWEN].views((4000, 3000)).libmtmd.n_tokens == 4015


def test_token_limits_are_named_where_a_dynamic_size_has_others(models, tmp_path):
    qwen, llava_checkpoint = (open_checkpoint(str(models / name)) for name in (QWEN, LLAVA))
    files = header_files(qwen, tmp_path)
    shown, cropped = shown_pictures(qwen, files), shown_pictures(llava_checkpoint)
    options = shown.limits
    assert options == LimitOptions(16, 256)  # 12,544 and 200,704 pixels, of 28 x 28 each
    assert not cropped.limits
    assert shown.rule == FitRule("BICUBIC", 28, 12544, 200704)
    assert cropped.rule == FitRule("BICUBIC", width=112, height=112, crops=True)
    assert shown.differs
    assert ShownPictures.of_record(shown.to_record()) == shown
    assert ShownPictures.of_record({"rule": 3}) == ShownPictures.of_record(None) == ShownPictures()
    with open_geometry(qwen, files, options.pair) as geometry:
        for size in (*ODD, (112, 112), (4000, 3000), (5, 5)):
            views = geometry.views(size)
            assert views.libmtmd.size == views.processor.size


def test_llava_crops_and_libmtmd_adds_bars(geometries):
    views = geometries[LLAVA].views((640, 480))
    assert (views.processor.size, views.processor.how, views.processor.content) == ((112, 112), "cropped", (149, 112))
    assert (views.libmtmd.size, views.libmtmd.how, views.libmtmd.content) == ((112, 112), "padded", (112, 84))
    assert views.processor.n_tokens == views.libmtmd.n_tokens == 64


@pytest.mark.parametrize("name", [QWEN, LLAVA])
def test_both_make_the_same_of_a_square(geometries, name):
    assert geometries[name].views((112, 112)).agree
    picture = _drawn((112, 112))
    assert geometries[name].fitted(picture) is picture


@pytest.mark.parametrize("name", [QWEN, LLAVA])
@pytest.mark.parametrize("size", ODD)
def test_the_processor_makes_the_same_of_a_fitted_picture(geometries, name, size):
    geometry, picture = geometries[name], _drawn(size)
    fitted = geometry.fitted(picture)
    make = geometry.processor._processor.image_processor
    values = [make(images=[image], return_tensors="np")["pixel_values"] for image in (picture, fitted)]
    assert np.array_equal(*values)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(name=st.sampled_from([QWEN, LLAVA]), size=st.tuples(st.integers(1, 900), st.integers(1, 900)))
def test_libmtmd_makes_of_a_fitted_picture_what_the_processor_makes_of_it(geometries, name, size):
    if max(size) > 200 * min(size):  # the processor's own limit
        with pytest.raises(CheckpointError, match="rejects a picture") if name == QWEN else nullcontext():
            geometries[name].views(size)
        return
    geometry = geometries[name]
    expected, fitted = geometry.processor.view(size), geometry.fitted(Image.new("RGB", size))
    seen = geometry.libmtmd.view(fitted.size)
    assert fitted.size == expected.size == seen.size
    assert (seen.how, seen.n_tokens) == ("unchanged", expected.n_tokens)
    assert not geometry.needed(size)


def test_a_header_of_llavas_mmproj_is_the_file_without_its_weights(models, tmp_path):
    checkpoint = open_checkpoint(str(models / LLAVA))
    vision = llava.clip_vision(checkpoint)
    shapes = {name: checkpoint.shapes[source] for source, name in llava.vision_names(checkpoint, vision).items()}
    mmproj.write_header(tmp_path / "header.gguf", "name", vision, shapes)
    mmproj.write(tmp_path / "whole.gguf", "name", vision, shapes, lambda name: np.zeros(shapes[name]))
    assert (tmp_path / "header.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize("saved", [b"", b"\2" + bytes(11), b"\3" + bytes(99), b"\2" + bytes(99)])
def test_saved_pieces_of_another_form_are_refused(saved):
    with pytest.raises(ValueError, match="libmtmd"):
        saved_chunk.picture_sizes(saved)


HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # white and grey have one value each in all channels


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
        {"image_processor_type": "JanusImageProcessor", "size": {"height": 112, "width": 112}} | HALVES,
    ],
    ids=lambda settings: settings["image_processor_type"],
)
def test_bars_of_the_processor_are_in_the_fitted_picture(models, tmp_path, settings):
    """Both sides pad to a square, but not in the same color, so sizes alone do not say that they agree."""
    for path in (models / LLAVA).iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | {"image_processor": content["image_processor"] | settings}))
    with open_geometry(open_checkpoint(str(tmp_path))) as geometry:
        views = geometry.views((150, 100))
        assert (views.processor.how, views.libmtmd.how, views.agree) == ("padded", "padded", False)
        picture, processor = _drawn((150, 100)), geometry.processor._processor.image_processor
        fitted = geometry.fitted(picture)
    assert fitted.size == views.processor.size
    before, after = (processor(images=[image], return_tensors="pt")["pixel_values"] for image in (picture, fitted))
    assert abs(before - after).max() < 0.01, "half a step of 255, normalized"
