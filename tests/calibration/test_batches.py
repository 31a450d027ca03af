"""Batches of samples with several pictures and turns: every token of every picture goes through the model."""

from dataclasses import replace

import pytest
from PIL import Image
from torch import nn

from luq_gguf.calibration.batches import batches
from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample
from luq_gguf.hf import long_prompts
from luq_gguf.hf.processor import load_processor


@pytest.fixture
def pictures(tmp_path):
    for name, side in (("small", 112), ("large", 168)):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{name}.png")
    return tmp_path / "small.png", tmp_path / "large.png"


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_all_pictures_and_turns_are_in_a_batch_with_equally_many_pictures(tiny_model, pictures):
    small, large = pictures
    turns = (Turn("user", (None, "what?")), Turn("assistant", ("red",)), Turn("user", (None, "and this?")))
    samples = (
        Sample("what?", (small,), ("red",)),
        Sample("which?", (small, large), ("red",)),
        Sample.of_turns(turns, (large, small), ("blue",)),
        Sample("what?", (large,), ("red",)),
    )
    processor = load_processor(tiny_model)
    data = CalibrationData(samples, tuple(s.without_images for s in samples[2:3]), None, 1, 0.8, 0, "f" * 64)
    made = list(batches(nn.Linear(1, 1), processor, data))
    assert [(batch.ids, batch.multimodal) for batch in made] == [
        ((0,), True),
        ((1, 2), True),
        ((3,), True),
        ((4,), False),
    ]
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    counts = [(batch.inputs["input_ids"] == image).sum(dim=1).tolist() for batch in made]
    assert counts == [[16], [52, 52], [36], [0]]  # a token for each 28 x 28 pixels
    assert [len(batch.inputs.get("image_grid_thw", ())) for batch in made] == [1, 4, 1, 0]
    text = processor.tokenizer.decode(made[1].inputs["input_ids"][1][made[1].valid[1]])
    places = [text.index(part) for part in ("what", "red", "and this", "blue")]
    assert places == sorted(places)


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_the_longest_texts_of_a_conversation_are_cut_and_its_pictures_stay(tiny_model, pictures):
    tokenizer = load_processor(tiny_model).tokenizer
    turns = (Turn("user", (None, "what? " * 90)), Turn("assistant", ("red",)), Turn("user", ("is it " * 90, None)))
    sample = Sample.of_turns(turns, pictures, ("a circle " * 90, "b"))
    cut = long_prompts.shortened(tokenizer, sample, 100)
    first, second, third = cut.turns
    assert second == turns[1]
    assert cut.images == pictures
    assert (first.content[0], third.content[1]) == (None, None)
    lengths = [
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (first.text, third.text, cut.answer)
    ]
    assert 92 <= sum(lengths) <= 100
    assert abs(lengths[0] - lengths[1]) <= 1
    assert (turns[0].text.startswith(first.text), turns[2].text.startswith(third.text)) == (True, True)
    short = replace(sample, turns=(*turns[:2], Turn("user", (None, "so?"))))
    assert long_prompts.shortened(tokenizer, short, 9999) == short


@pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")
def test_a_document_is_read_in_pieces_of_as_many_tokens_as_are_asked_for(tiny_model):
    processor = load_processor(tiny_model)
    document = "a red circle and a blue square. " * 300
    tokens = processor.tokenizer(document, add_special_tokens=False)["input_ids"]
    data = CalibrationData((), (), document, 8, 0.0, 0, "f" * 64)
    made = list(batches(nn.Linear(1, 1), processor, data, chunk=256))
    assert [batch.ids for batch in made] == [(0, 1, 2, 3), (4, 5, 6, 7)]  # 1,024 tokens each
    rows = [row.tolist() for batch in made for row in batch.inputs["input_ids"]]
    assert [token for row in rows for token in row] == tokens[: 8 * 256]
    (first, *_), (whole, *_) = made, batches(nn.Linear(1, 1), processor, data)
    assert whole.inputs["input_ids"][0].tolist() == rows[0] + rows[1]
    assert first.valid.all()
