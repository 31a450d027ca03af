"""Prompts of data sets that hold what some model writes for an image."""

import pytest

from luq_gguf.core.placeholders import without_placeholders


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("<image>\nWhat is this?", "What is this?"),
        ("What is this?\n<image>", "What is this?"),
        ("<|vision_start|><|image_pad|><|vision_end|>What is this?", "What is this?"),
        ("Look at <image> and <image>, please.", "Look at and , please."),
        ("a<image>b", "a b"),
        ("one\n<image>\ntwo", "one\n\ntwo"),
        ("<image> <image>\n", ""),
        ("<|image_1|>\nWhat is this?", "What is this?"),
        ("<__media__>What is this?", "What is this?"),
        ("<start_of_image> What is this?", "What is this?"),
    ],
)
def test_placeholders_go_and_the_text_stays(prompt, kept):
    assert without_placeholders(prompt) == kept


@pytest.mark.parametrize(
    "prompt", ["", "  two  spaces \n", "what does <img> mean?", "is 1 < 2 > 0?", "<b>bold</b>", "[x]"]
)
def test_a_prompt_without_any_is_left_alone(prompt):
    assert without_placeholders(prompt) == prompt


def test_a_model_has_placeholders_of_its_own():
    assert without_placeholders("<picture.> what?", ["<picture.>"]) == "what?"
    assert without_placeholders("<pictures> what?", ["<picture.>"]) == "<pictures> what?"
