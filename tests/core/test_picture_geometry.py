"""What a picture becomes: the values that say it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from luq_gguf.core.picture_geometry import Canvas, LimitOptions, PictureView, PictureViews, TokenLimits, bars

sides = st.integers(1, 4096)
sizes = st.tuples(sides, sides)


@given(sizes, sizes)
def test_a_padded_picture_fits_its_canvas_and_touches_it(picture, canvas):
    content = bars(picture, canvas)
    assert 1 <= content[0] <= canvas[0]
    assert 1 <= content[1] <= canvas[1]
    assert content[0] == canvas[0] or content[1] == canvas[1]


@given(sizes)
def test_a_picture_of_the_canvas_size_has_no_bars(canvas):
    assert bars(canvas, canvas) == canvas
    assert PictureView.of(canvas, (canvas,), 1, canvas, pads=True).how == "unchanged"


def test_what_is_done_is_read_from_sizes():
    def view(content, *, pads, pieces=((140, 112),)):
        return PictureView.of((150, 100), pieces, 20, content, pads=pads).how

    assert view((140, 112), pads=True) == "resized"
    assert view((140, 94), pads=True) == "padded"
    assert view((168, 112), pads=False) == "cropped"
    assert view((140, 112), pads=False, pieces=((140, 112),) * 3) == "tiled"


def test_the_same_size_with_bars_is_not_the_same_picture():
    stretched = PictureView.of((150, 100), ((140, 112),), 20, (140, 112), pads=False)
    padded = PictureView.of((150, 100), ((140, 112),), 20, (140, 94), pads=True)
    assert PictureViews((150, 100), stretched, stretched).agree
    assert not PictureViews((150, 100), stretched, padded).agree
    assert PictureViews((150, 100), stretched, padded).to_json()["libmtmd"]["content"] == {"width": 140, "height": 94}


def test_a_canvas_has_the_picture_in_its_middle_between_bars():
    white = Image.new("RGB", (150, 100), "white")
    drawn = np.asarray(Canvas((140, 112), (140, 94), "BICUBIC", (122, 116, 104)).draw(white))
    assert drawn.shape == (112, 140, 3)
    assert (drawn[9:103] == 255).all()
    assert (np.concatenate([drawn[:9], drawn[103:]]) == (122, 116, 104)).all()


def test_a_canvas_without_bars_is_the_resized_picture_or_the_picture_itself():
    picture = Image.linear_gradient("L").convert("RGB")
    resized = Canvas((140, 112), (140, 112), "BILINEAR").draw(picture)
    assert np.array_equal(resized, picture.resize((140, 112), Image.Resampling.BILINEAR))
    assert Canvas((256, 256), (256, 256), "BICUBIC").draw(picture) is picture


def test_limits_are_named_where_they_differ():
    assert LimitOptions.of(TokenLimits(4, 16384), TokenLimits(8, 4096)).arguments == (
        "--image-min-tokens", "4", "--image-max-tokens", "16384",
    )  # fmt: skip
    assert LimitOptions.of(TokenLimits(8, 256), TokenLimits(8, 4096)).arguments == ("--image-max-tokens", "256")
    assert not LimitOptions.of(TokenLimits(8, 4096), TokenLimits(8, 4096))
    assert not LimitOptions.of(None, TokenLimits(8, 4096))
