"""Long calibration samples are cut, by the checkpoint's own tokenizer."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from luq_gguf.core.calibration_set import CalibrationData
from luq_gguf.core.types import Sample
from luq_gguf.hf import checkpoint as checkpoints
from luq_gguf.hf import long_prompts

pytestmark = pytest.mark.parametrize("tiny_model", ["tiny-qwen2.5-vl"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def n_tokens(tokenizer, *texts):
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def test_a_long_prompt_is_cut_and_the_others_stay(tiny_model, tokenizer):
    long, short = Sample("what is red? " * 900, (), ("a circle",)), Sample("what?")
    picture = replace(long, images=(tiny_model / "picture.png",))
    data = CalibrationData((picture,), (long, short), None, 2, 0.5, 0, "f" * 64, lines=(picture, long, short))
    cut = long_prompts.cut(data, checkpoints.open_checkpoint(str(tiny_model)))
    assert (cut.n_cut, cut.cut_at) == (2, 512)
    assert cut.text[1] == short
    assert cut.multimodal[0].images == picture.images
    assert cut.lines == data.lines
    for sample in (cut.multimodal[0], cut.text[0]):
        assert sample.answer == "a circle"
        assert long.prompt.startswith(sample.prompt)
        assert 505 <= n_tokens(tokenizer, sample.prompt, sample.answer) <= 512


def test_a_long_answer_leaves_half_to_the_prompt(tokenizer):
    cut = long_prompts.shortened(tokenizer, Sample("what is red? " * 90, (), ("a circle " * 90, "b")), 100)
    assert n_tokens(tokenizer, cut.prompt) == n_tokens(tokenizer, cut.answer) == 50
    assert cut.answers[1] == "b"


def test_short_samples_need_no_tokenizer(tiny_model, tmp_path):
    data = CalibrationData((), (Sample("what?"),), None, 1, 0.0, 0, "f" * 64)
    broken = replace(checkpoints.open_checkpoint(str(tiny_model)), folder=tmp_path)
    assert long_prompts.cut(data, broken) is data


@pytest.mark.parametrize(
    ("config", "limit"),
    [({}, 512), ({"text_config": {"max_position_embeddings": 256}}, 128), ({"max_position_embeddings": 4096}, 512)],
)
def test_the_models_context_is_respected(tiny_model, config, limit):
    assert long_prompts.longest(replace(checkpoints.open_checkpoint(str(tiny_model)), config=config)) == limit
