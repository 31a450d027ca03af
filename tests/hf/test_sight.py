"""A model that would not see the pictures that it is calibrated with is refused in the preflight."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from luq_gguf.core.errors import CheckpointError
from luq_gguf.hf import prompts, sight
from luq_gguf.hf.checkpoint import open_checkpoint
from luq_gguf.hf.model import meta_model
from luq_gguf.hf.processor import load_processor


@pytest.fixture(scope="module")
def opened(models):
    return open_checkpoint(str(models / "tiny-qwen2.5-vl"))


@pytest.fixture(scope="module")
def model(opened):
    return meta_model(opened)


@pytest.fixture(scope="module")
def processor(opened):
    return load_processor(opened.folder)


@pytest.fixture
def inputs(processor):
    text = "<|vision_start|><|image_pad|><|vision_end|>what is it?"
    return dict(processor(images=[[Image.new("RGB", (112, 112))]], text=[text], return_tensors="pt"))


def test_a_processor_as_it_should_be(tiny_model):
    checkpoint = open_checkpoint(str(tiny_model))
    assert prompts.check(checkpoint, meta_model(checkpoint))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": torch.tensor([[1, 2, 3]])}, "makes no image token of a picture"),
        ({"pixel_values": [torch.zeros(64, 1176)]}, "reads nothing that its processor makes of a picture"),
        ({"pixel_values": None, "images": torch.zeros(64, 1176)}, r"reads nothing .* \(image_grid_thw, images,"),
        (
            {"pixel_values": torch.zeros(64, 768)},
            "makes 64 x 768 values of a picture, which its vision half does not take",
        ),
        ({"pixel_values": torch.zeros(1, 4, 112, 112)}, "makes 1 x 4 x 112 x 112 values"),
    ],
)
def test_inputs_that_leave_the_model_blind(opened, processor, model, inputs, change, words):
    changed = {name: value for name, value in (inputs | change).items() if value is not None}
    sight.check_inputs(opened, processor, model, [1, 2], inputs)
    with pytest.raises(CheckpointError, match=words) as caught:
        sight.check_inputs(opened, processor, model, [1, 2], changed)
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(1, 3, 112, 112), (1, 1, 3, 112, 112), (4, 3, 14, 14), (1, 64, 588)])
def test_shapes_that_towers_take(shape):
    folded = torch.nn.Conv2d(3, 8, 14)
    assert sight._takes(folded, shape)
    assert sight._takes(torch.nn.Linear(3 * 14 * 14, 8), shape)  # behind an unfolding
    assert not sight._takes(folded, (1, 64, 768))


def test_a_forward_that_passes_everything_on(opened, processor, model, inputs):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config, self.base_model = model, model.config, self

        def forward(self, *args, **kwargs): ...

    sight.check_inputs(opened, processor, Wrapper(), [1, 2], inputs)


def test_a_processor_that_takes_no_pictures(opened):
    tokenizer = load_processor(opened.folder).tokenizer
    with pytest.raises(CheckpointError, match="would be calibrated blind") as caught:
        sight.check_processor(opened, tokenizer)
    assert "processor_class" in caught.value.hint
    config = {name: value for name, value in opened.config.items() if name != "vision_config"}
    sight.check_processor(replace(opened, config=config), tokenizer)
