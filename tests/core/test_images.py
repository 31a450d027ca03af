"""Images as people have them: the pixels of transformers' load_image, and those that are no pixels by name."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from luq_gguf.core.images import open_rgb, upright_size

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
TURNS = {  # EXIF: what has to be done to the stored rows and columns to see the picture upright
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: np.rot90,
}


def pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(open_rgb(path))


def picture(array=COLORS):
    return Image.fromarray(array)


def png(path, values, colour_type):
    """A PNG of 16 bits per sample, which Pillow writes of grey only."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def grey_tiff(path, bits, data, width, height, order="<"):
    """An uncompressed grey TIFF of so many bits per sample."""
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 134), (277, 3, 1),
            (278, 3, height), (279, 4, len(data)), (339, 3, 1)]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, kind, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(tags))
    path.write_bytes((head + entries + bytes(4)).ljust(134, b"\0") + data)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path, turn, suffix):
    stored, exif = np.kron(COLORS // 2 + 64, np.ones((16, 16, 1), np.uint8)), Image.Exif()
    exif[0x0112] = turn
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    picture(stored).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    seen, upright = pixels(tmp_path / f"a.{suffix}").astype(int), TURNS[turn](stored)
    assert seen.shape == upright.shape
    assert np.abs(seen - upright).mean() < (4 if suffix == "jpg" else 1e-9)


def test_16_bit_grey_is_not_white(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    png(tmp_path / "a.png", deep, 0)
    picture(deep).save(tmp_path / "little.tif")
    grey_tiff(tmp_path / "big.tif", 16, deep.astype(">u2").tobytes(), 7, 5, ">")
    (tmp_path / "a.pgm").write_bytes(b"P5 7 5 65535\n" + deep.astype(">u2").tobytes())
    (tmp_path / "ten-bits.pgm").write_bytes(
        b"P5 7 5 1023\n" + (GREY.astype(int) * 4 + GREY // 64).astype(">u2").tobytes()
    )
    for path in tmp_path.iterdir():
        assert np.array_equal(pixels(path), np.dstack([GREY] * 3)), path.name


def test_12_bit_grey_of_a_camera_is_not_black(tmp_path):
    values = GREY[:4, :6].astype(int) * 16 + 5
    bits = "".join(f"{value:012b}" for value in values.ravel())
    grey_tiff(tmp_path / "a.tif", 12, int(bits, 2).to_bytes(len(bits) // 8, "big"), 6, 4)
    assert np.array_equal(pixels(tmp_path / "a.tif"), np.dstack([GREY[:4, :6]] * 3))


def test_16_bit_colour_and_grey_with_transparency_keep_their_upper_bits(tmp_path):
    png(tmp_path / "colour.png", COLORS.astype(np.uint16) * 256 + 200, 2)
    png(tmp_path / "grey.png", np.dstack([GREY.astype(np.uint16) * 256 + 200, GREY.astype(np.uint16)]), 4)
    assert np.array_equal(pixels(tmp_path / "colour.png"), COLORS)
    assert np.array_equal(pixels(tmp_path / "grey.png"), np.dstack([GREY] * 3))


def test_transparency_is_left_out_and_what_is_beneath_shows(tmp_path):
    clear = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    picture(np.dstack([COLORS, clear])).save(tmp_path / "rgba.png")
    picture(np.dstack([COLORS, clear])).save(tmp_path / "a.webp", lossless=True, exact=True)
    palette = picture().quantize(8)
    palette.save(tmp_path / "one.png", transparency=0)
    palette.save(tmp_path / "many.png", transparency=bytes(range(0, 256, 32)))
    picture(np.dstack([GREY, clear])).save(tmp_path / "la.png")
    for name in ("rgba.png", "a.webp"):
        assert np.array_equal(pixels(tmp_path / name), COLORS), name
    for name in ("one.png", "many.png"):
        assert np.array_equal(pixels(tmp_path / name), np.asarray(palette.convert("RGB"))), name
    assert np.array_equal(pixels(tmp_path / "la.png"), np.dstack([GREY] * 3))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_of_an_animated_picture_the_first_frame_is_seen(tmp_path, name):
    first, second = Image.new("RGB", (16, 16), (200, 40, 40)), Image.new("RGB", (16, 16), (40, 40, 200))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    with Image.open(tmp_path / name) as opened:
        assert opened.n_frames == 2
    assert np.abs(pixels(tmp_path / name).astype(int) - (200, 40, 40)).max() < 8


def test_cmyk_as_photo_programs_store_it_is_not_inverted(tmp_path):
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()[:200]
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - (200, 40, 90)).max() < 8


def test_black_and_white_one_pixel_and_a_wrong_suffix(tmp_path):
    Image.new("1", (3, 2), 1).save(tmp_path / "bits.png")
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one.png")
    picture().save(tmp_path / "really-png.jpg", format="PNG")
    assert pixels(tmp_path / "bits.png").tolist() == [[[255] * 3] * 3] * 2
    assert pixels(tmp_path / "one.png").tolist() == [[[9, 8, 7]]]
    assert np.array_equal(pixels(tmp_path / "really-png.jpg"), COLORS)


def test_a_color_profile_changes_nothing(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture().save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(pixels(tmp_path / "a.png"), COLORS)


def test_32_bit_values_are_read_where_they_are_pixels_and_named_where_they_are_not(tmp_path):
    picture(GREY.astype(np.float32)).save(tmp_path / "pixels.tif")
    picture(np.zeros((2, 2), np.float32)).save(tmp_path / "black.tif")
    assert np.array_equal(pixels(tmp_path / "pixels.tif"), np.dstack([GREY] * 3))
    assert not pixels(tmp_path / "black.tif").any()
    for array in (GREY / 255, GREY.astype(int) * 300, GREY - 300.0, np.full((2, 2), np.nan)):
        kind = np.int32 if array.dtype == int else np.float32
        picture(array.astype(kind)).save(tmp_path / "values.tif")
        with pytest.raises(ValueError, match=r"values\.tif has 32-bit values from .* to .*, not pixels from 0 to 255"):
            open_rgb(tmp_path / "values.tif")


def test_a_cut_photo_is_refused(tmp_path):
    whole = io.BytesIO()
    picture(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    for share in (0, 0.3, 0.9):
        (tmp_path / "a.jpg").write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
        with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
            open_rgb(tmp_path / "a.jpg")


def test_transformers_sees_the_same_pixels(tmp_path):
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "F")
    for mode in modes:
        converted = picture().convert("RGBA").convert(mode) if mode in ("LA", "PA") else None
        converted = converted or (picture().convert("L") if mode == "F" else picture()).convert(mode)
        for suffix in ("png", "tif", "jpg", "gif", "webp", "bmp", "tga", "jp2"):
            try:
                converted.save(tmp_path / f"{mode}.{suffix}", exif=exif)
                with Image.open(tmp_path / f"{mode}.{suffix}") as saved:
                    saved.load()
            except (OSError, KeyError, ValueError):  # a format without this mode, or one that Pillow does not read back
                (tmp_path / f"{mode}.{suffix}").unlink(missing_ok=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 30
    for path in files:
        assert upright_size(path) == open_rgb(path).size
        with Image.open(path) as opened:
            assert np.array_equal(pixels(path), np.asarray(load_image(opened))), path.name
