"""The rule by which a processor resizes pictures, and the program that follows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from luq_gguf.core.fit_rule import FitRule
from luq_gguf.core.picture_geometry import LimitOptions

DYNAMIC = FitRule("BICUBIC", 28, 12544, 200704)
RULES = [DYNAMIC, FitRule("BILINEAR", width=96, height=64), FitRule("BICUBIC", width=112, height=112, crops=True)]
sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@given(sizes)
def test_a_dynamic_size_is_within_its_limits(picture):
    width, height = DYNAMIC.content(picture)
    assert width % 28 == height % 28 == 0
    if max(picture) < 8 * min(picture):  # beyond that, one side may be a single step
        assert 12544 <= width * height <= 200704


@given(sizes)
def test_what_is_cropped_covers_the_square(picture):
    assert min(RULES[2].content(picture)) == 112


@given(sizes)
def test_a_fitted_picture_is_fitted(picture):
    once = DYNAMIC.content(picture)
    if 12544 <= once[0] * once[1] <= 200704:
        assert DYNAMIC.content(once) == once


def test_limits_are_those_of_the_rule():
    rule = FitRule("BICUBIC", 28, 6272, 100352)
    assert rule.limits_of(LimitOptions(None, 126)) == LimitOptions(None, 128)
    assert rule.limits_of(LimitOptions(9, None)) == LimitOptions(8, None)
    assert RULES[1].limits_of(LimitOptions(9, 126)) == LimitOptions(9, 126)


@pytest.mark.parametrize("rule", RULES, ids=["dynamic", "stretched", "cropped"])
@pytest.mark.parametrize("size", [(150, 100), (640, 480), (1000, 30), (20, 31)])
def test_the_program_does_what_the_rule_says(rule, size, tmp_path, monkeypatch):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    picture.save(tmp_path / "photo.png")
    program = rule.program.replace("photo.jpg", "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "program", "exec"), {})
    content = rule.content(size)
    expected = picture.resize(content, Image.Resampling[rule.filter])
    if rule.crops:
        left, top = (content[0] - 112) // 2, (content[1] - 112) // 2
        expected = expected.crop((left, top, left + 112, top + 112))
    with Image.open(tmp_path / "fitted.png") as fitted:
        assert np.array_equal(np.asarray(fitted), np.asarray(expected))
