"""`inspect --model` and `fit`, as commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from luq_gguf.core.images import open_rgb

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Pictures of all kinds, of 60 x 40 pixels where nothing else is said; the one turned by EXIF is stored upright."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    color = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    color.save(folder / "turned.jpg", exif=exif)
    color.save(folder / "plain.jpg")
    color.convert("RGBA").save(folder / "alpha.png")
    color.convert("P").save(folder / "palette.gif")
    color.convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(random.integers(0, 65536, (40, 60), dtype=np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (112, 112), "red").save(folder / "square.bmp")
    Image.new("RGB", (1600, 1200), "red").save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def fitted(cli, models, drawn, tmp_path_factory):
    """All of them, fitted for Qwen by the command."""
    out = tmp_path_factory.mktemp("fitted") / "new" / "folder"
    files = sorted(drawn.iterdir())
    done = cli("fit", *files, "--model", models / "tiny-qwen2.5-vl", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["pictures"]
    assert [entry["picture"] for entry in told] == [str(file) for file in files]
    return out, {entry["picture"].rpartition("/")[2]: entry for entry in told}


def test_every_mode_becomes_rgb_of_the_processors_size(fitted):
    out, told = fitted
    for name, entry in told.items():
        with Image.open(out / f"{name.rpartition('.')[0]}.png") as picture:
            assert picture.mode == "RGB", name
            assert picture.size == (entry["processor"]["width"], entry["processor"]["height"]), name
    assert told["photo.png"]["libmtmd"]["tokens"] == 57 * 43
    assert not any(entry["needed"]["image_max_tokens"] for entry in told.values())


def test_a_picture_that_needs_nothing_keeps_its_pixels(fitted):
    out, told = fitted
    assert [name for name, entry in told.items() if not entry["changed"]] == ["square.bmp"]
    assert np.array_equal(np.asarray(open_rgb(out / "square.png")), np.full((112, 112, 3), (255, 0, 0)))


def test_exif_orientation_is_applied_before_the_size_is_asked_for(fitted, drawn):
    out, told = fitted
    assert (told["turned.jpg"]["width"], told["turned.jpg"]["height"]) == (40, 60)
    size = told["turned.jpg"]["processor"]["width"], told["turned.jpg"]["processor"]["height"]
    expected = load_image(str(drawn / "turned.jpg")).resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(open_rgb(out / "turned.png")), np.asarray(expected))


@pytest.fixture
def refused(cli, models, tmp_path):
    def run(*pictures, out=tmp_path / "out", more=()):
        done = cli("fit", *pictures, "--model", models / "tiny-qwen2.5-vl", "--out", out, *more)
        assert done.returncode == 2, done.stderr
        return done.stderr

    return run


def test_names_that_collide_are_refused(refused, drawn, tmp_path):
    other = tmp_path / "plain.png"
    Image.new("RGB", (9, 9)).save(other)
    assert "would both be written to" in refused(drawn / "plain.jpg", other)
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_written_over(refused, tmp_path):
    picture = tmp_path / "own.png"
    Image.new("RGB", (9, 9)).save(picture)
    before = picture.read_bytes()
    for out in (tmp_path, tmp_path / "." / "linked"):
        if not out.exists():
            out.symlink_to(tmp_path)
        assert "is one of the pictures to fit" in refused(picture, out=out, more=["--overwrite"])
    assert picture.read_bytes() == before


def test_files_of_others_are_kept_unless_told(refused, tmp_path):
    picture, out = tmp_path / "a.bmp", tmp_path / "out"
    Image.new("RGB", (9, 9)).save(picture)
    out.mkdir()
    (out / "a.png").write_text("mine")
    assert "exists already" in refused(picture, out=out)
    assert (out / "a.png").read_text() == "mine"


def test_what_cannot_be_fitted_is_said(refused, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png cannot be read" in refused(tmp_path / "text.png")
    assert "none.png is not a file" in refused(tmp_path / "none.png")
    Image.new("RGB", (1000, 3)).save(tmp_path / "long.png")
    assert "rejects a picture of 1000 x 3 pixels" in refused(tmp_path / "long.png")


def test_inspect_tells_what_both_make_of_a_picture(cli, models, drawn):
    done = cli("inspect", drawn / "turned.jpg", "--model", models / "tiny-llava-1.5")
    assert done.returncode == 0, done.stderr
    assert "40 x 60 pixels" in done.stdout
    assert "resized to 112 x 168, then cropped" in done.stdout
    assert "resized to 75 x 112, with bars on the left and right" in done.stdout
    assert "luq-gguf fit makes a picture" in done.stdout
    done = cli("inspect", drawn / "square.bmp", "--model", models / "tiny-llava-1.5", "--json")
    assert json.loads(done.stdout)["agree"]
    assert cli("inspect", drawn / "square.bmp", "--png", "x.png", "--model", models / "tiny-llava-1.5").returncode == 2
