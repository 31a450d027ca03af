"""Sets of questions as files."""

import json

import numpy as np
import pytest
from PIL import Image

from instrument import draw, sets
from luq_gguf.hf.sample_files import read_jsonl


@pytest.mark.parametrize(("kind", "questions"), [("test", draw.for_tests), ("train", draw.for_calibration)])
def test_a_set_is_what_luq_gguf_reads(tmp_path, kind, questions):
    path = sets.write_set(tmp_path, kind, 3)
    asked = [question for split in draw.NAMES for question in questions(split, 3)]
    read = list(read_jsonl(path))
    assert [(one.prompt, list(one.answers)) for one in read] == [(one.text, [one.answer]) for one in asked]
    for one, question in zip(read, asked, strict=True):
        with Image.open(one.image) as picture:
            assert np.array_equal(np.asarray(picture), question.picture)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["split"] for row in rows] == [split for split in draw.NAMES for _ in range(3)]


def test_a_seed_means_the_same_files(tmp_path):
    paths = [
        sets.write_set(tmp_path / name, "test", 2, seed, ("read", "chart"))
        for name, seed in (("a", None), ("b", draw.TEST_SEED), ("c", 1))
    ]
    one, same, other = ({file.name: file.read_bytes() for file in path.parent.iterdir()} for path in paths)
    assert one == same
    assert len(one) == 5
    assert other.keys() == one.keys()
    assert other != one
