"""What keys have of a sample: as ever of one prompt with one picture at most, and all pictures and turns of others."""

import json
from dataclasses import replace
from pathlib import Path

from luq_gguf.core.sample_content import asked
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample

A, B = Path("a.png"), Path("b.png")
TURNS = (Turn("user", (None, "what?")), Turn("assistant", ("red",)), Turn("user", ("and ", None, "?")))
DIALOGUE = Sample.of_turns(TURNS, (A, B))


def key(sample):
    return json.dumps(asked(sample, lambda path: path.stem))


def test_a_prompt_with_one_picture_or_none_has_the_key_that_it_always_had():
    assert asked(Sample("what?", (A,), ("red",)), lambda path: path.stem) == ["a", "what?"]
    assert asked(Sample("what?"), lambda path: path.stem) == ["", "what?"]
    turns = [Turn("user", (None, "what?"))]
    assert Sample.of_turns(turns, (A,)) == Sample("what?", (A,))


def test_every_picture_turn_and_place_changes_the_key():
    def with_turn(number, turn):
        return replace(DIALOGUE, turns=(*TURNS[:number], turn, *TURNS[number + 1 :]))

    others = [
        Sample("what?", (A,)),
        Sample("what?", (A, B)),
        Sample("what?", (B, A)),
        Sample.of_turns([Turn("user", ("what?", None, None))], (A, B)),
        Sample.of_turns([Turn("user", (None, "what?", None))], (A, B)),
        Sample.of_turns([Turn("user", ("what?", None))], (A,)),
        DIALOGUE,
        replace(DIALOGUE, images=(B, A)),
        with_turn(0, Turn("user", ("what?", None))),
        with_turn(1, Turn("assistant", ("blue",))),
        with_turn(1, Turn("system", ("red",))),
        with_turn(2, Turn("user", ("and ", None, "!"))),
        DIALOGUE.without_images,
    ]
    assert len({key(sample) for sample in others}) == len(others)
    assert key(replace(DIALOGUE, answers=("x",), line=3)) == key(DIALOGUE)  # what is asked is not the answer
