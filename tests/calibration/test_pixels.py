"""Which pixels of its images calibration sees."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families.llava import as_libmtmd_orders_clip
from PIL import Image

from luq_gguf.calibration import pixels, stage
from luq_gguf.calibration.batches import batches
from luq_gguf.calibration.forward_pass import pass_key
from luq_gguf.calibration.profiler import calibration_facts
from luq_gguf.core.calibration_set import DEPLOYED, PROCESSOR, CalibrationData, CalibrationSet
from luq_gguf.core.reporter import Reporter
from luq_gguf.core.types import Sample
from luq_gguf.evaluation import against
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.devices import choose_device
from luq_gguf.hf.processor import load_processor
from luq_gguf.method.metrics.kld import kl_divergence

QUESTION = "what color is the shape?"


@pytest.fixture
def published(models, tmp_path):
    """The trained Qwen2.5-VL with the limits that Qwen2.5-VL was published with: up to 16,384 tokens."""
    source = models / "tiny-qwen2.5-vl"
    folder = shutil.copytree(source, tmp_path / "published", ignore=lambda *_: ["model.safetensors"])
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    whole = json.loads((folder / "processor_config.json").read_text())
    whole["image_processor"]["size"] = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    return open_checkpoint(str(folder))


def data_of(folder, *sizes):
    """Calibration data of black pictures of these sizes."""
    samples = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.new("RGB", size).save(path)
        samples.append(Sample(QUESTION, (path,)))
    return CalibrationData(tuple(samples), (), None, 0, 1.0, 0, "0f")


def inputs_of(checkpoint, data):
    """What the reference model is given, batch for batch."""
    processor = load_processor(checkpoint.folder)
    return [batch.inputs for batch in batches(torch.nn.Linear(1, 1), processor, data)]


def test_images_beyond_llama_cpps_limit_are_calibrated_at_it(published, tmp_path):
    large, wide = (2128, 1596), (640, 480)
    data, told = data_of(tmp_path, large, wide), []
    session = SimpleNamespace(spec=SimpleNamespace(checkpoint=published), reporter=Reporter(info=told.append))
    shown = stage.with_pixels(session, CalibrationSet(), data)
    canvas = shown.canvases[data.multimodal[0].image]
    assert canvas.size == canvas.content
    assert list(shown.canvases) == [data.multimodal[0].image]
    grids = [grid.tolist() for one in inputs_of(published, shown) for grid in one["image_grid_thw"]]
    tokens = [rows * columns // 4 for _, rows, columns in grids]
    assert 4000 < tokens[0] <= 4096 < 76 * 57
    assert tokens[0] == canvas.size[0] * canvas.size[1] // 28**2
    assert tokens[1] == 391
    assert told == ["1 of 2 images have more tokens than llama.cpp's limit of 4,096: they are calibrated at that limit"]
    facts = calibration_facts(shown).to_json()
    assert (facts["pixels"], facts["limited_images"], facts["image_token_limit"]) == (PROCESSOR, 1, 4096)
    assert pass_key(published, shown, torch.float32) != pass_key(published, data, torch.float32)
    assert pixels.sizes_beyond_limit(data, published) == [large]


def test_images_within_the_limit_are_seen_as_they_are(published, tmp_path):
    data = data_of(tmp_path, (640, 480), (112, 112))
    assert pixels.shown(data, published, PROCESSOR) is data
    facts = calibration_facts(data).to_json()
    assert facts["pixels"] == PROCESSOR
    assert "limited_images" not in facts


def test_libmtmd_is_not_asked_about_small_images_and_once_about_others(published, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(pixels._Limit, "_ask", lambda self, size: asked.append(size) or size[0] > 3000)
    data = data_of(tmp_path, (448, 448), (640, 480), (3100, 300))
    for _ in range(2):
        assert pixels.sizes_beyond_limit(data, published) == [(3100, 300)]
    assert asked == [(640, 480), (3100, 300)]


def test_deployed_pixels_have_libmtmds_size_and_bars(published, tmp_path):
    data = data_of(tmp_path, (150, 100), (30, 20))
    white = tmp_path / "0.png"
    Image.new("RGB", (150, 100), "white").save(white)
    shown = pixels.shown(data, published, DEPLOYED)
    sizes = [canvas.size for canvas in shown.canvases.values()]
    assert sizes[0] == (140, 112)
    assert sizes[1][0] * sizes[1][1] >= 8 * 28 * 28  # libmtmd's fewest tokens; the processor would have 4
    drawn = np.asarray(shown.canvases[white].draw(Image.open(white)))
    assert (drawn[:9] == 0).all()
    assert (drawn[9:103] == 255).all()
    grids = [grid.tolist() for one in inputs_of(published, shown) for grid in one["image_grid_thw"]]
    assert grids == [[1, height // 14, width // 14] for width, height in sizes]
    facts = calibration_facts(shown).to_json()
    assert facts["pixels"] == DEPLOYED
    assert "limited_images" not in facts


def test_images_in_tiles_are_calibrated_as_the_processor_makes_them(published, tmp_path, monkeypatch):
    monkeypatch.setattr("luq_gguf.llamacpp.picture_view.LibmtmdEye.canvas", lambda *_: None)
    data, told = data_of(tmp_path, (150, 100)), []
    session = SimpleNamespace(spec=SimpleNamespace(checkpoint=published), reporter=Reporter(info=told.append))
    assert stage.with_pixels(session, CalibrationSet(pixels=DEPLOYED), data) is data
    assert len(told) == 1
    assert "it cannot be shown what llama.cpp makes of them" in told[0]


def test_the_reference_model_sees_what_llama_cpp_sees(small, tiny_model, test_set, tmp_path):
    checkpoint = open_checkpoint(str(tiny_model))
    placement = replace(choose_device("cpu", checkpoint), exact=True)
    source, question, _ = test_set[0]
    original, drawn = tmp_path / "original.png", tmp_path / "drawn.png"
    Image.open(source).resize((150, 100), Image.Resampling.BICUBIC).save(original)
    data = CalibrationData((Sample(question, (original,)),), (), None, 0, 1.0, 0, "0f")
    pixels.shown(data, checkpoint, DEPLOYED).canvases[original].draw(Image.open(original)).save(drawn)
    with as_libmtmd_orders_clip() if "llava" in tiny_model.name else nullcontext():
        (as_is,) = against.predictions(small.f16, small.mmproj, checkpoint, [Sample(question, (original,))], placement)
        (shown,) = against.predictions(small.f16, small.mmproj, checkpoint, [Sample(question, (drawn,))], placement)

    def kld(reference):
        return kl_divergence(reference[as_is.n_before :], as_is.file[as_is.n_before :]).mean()

    assert kld(shown.reference) < 1e-3 < 1e-2 < kld(as_is.reference)
