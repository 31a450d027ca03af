"""Calibration input as users have it: folders, .jsonl, datasets; and what is wrong with it."""

import json

import numpy as np
import pytest
from PIL import Image

from luq_gguf.core.errors import CalibrationError
from luq_gguf.hf.datasets import FOLDER_PROMPT, read_calibration, read_questions, samples_from_rows


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def read(images, tmp_path, text=None, n_samples=8, alpha=0.5, seed=0):
    source = str(images) if images else None
    return read_calibration(source, text, n_samples=n_samples, alpha=alpha, seed=seed, cache=tmp_path / "cache")


def write_lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) if not isinstance(row, str) else row for row in rows))
    return path


def test_a_folder_of_images(pictures, tmp_path):
    found = read(pictures, tmp_path)
    assert len(found.multimodal) == 4
    assert found.n_text == 4
    assert {s.prompt for s in found.multimodal} == {FOLDER_PROMPT}
    assert all(s.image is None for s in found.text)


def test_a_jsonl_with_answers_and_relative_paths(pictures, tmp_path):
    rows = [{"image": f"pictures/{i}.png", "prompt": f"which {i}?", "answers": [f"a{i}", "b"]} for i in range(8)]
    found = read(write_lines(tmp_path / "set.jsonl", *rows), tmp_path)
    assert found.sources == ("set.jsonl",)
    assert {s.answer for s in found.multimodal} <= {f"a{i}" for i in range(8)}
    with_images, without = {s.prompt for s in found.multimodal}, {s.prompt for s in found.text}
    assert not with_images & without


def test_the_draw_depends_on_the_seed_alone(pictures, tmp_path):
    assert read(pictures, tmp_path).sha256 == read(pictures, tmp_path).sha256
    assert read(pictures, tmp_path).sha256 != read(pictures, tmp_path, seed=1).sha256


@pytest.mark.parametrize(("alpha", "multimodal", "text"), [(0.0, 0, 8), (0.25, 2, 6), (1.0, 8, 0)])
def test_alpha_is_the_multimodal_share(pictures, tmp_path, alpha, multimodal, text):
    found = read(pictures, tmp_path, alpha=alpha)
    assert (len(found.multimodal), found.n_text) == (multimodal, text)


def test_a_text_file_is_read_as_it_stands(pictures, tmp_path):
    (tmp_path / "book.txt").write_text("Call me what you like.")
    found = read(pictures, tmp_path, text=str(tmp_path / "book.txt"))
    assert found.document == "Call me what you like."
    assert found.sources == ("pictures", "book.txt")


def test_unreadable_images_are_skipped_and_named(pictures, tmp_path):
    (pictures / "0.png").write_bytes(b"no picture")
    found = read(pictures, tmp_path, n_samples=10, alpha=1.0)
    assert found.skipped == ("0.png",)
    assert len(found.multimodal) == 9


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "line 2"),
        ({"image": "pictures/0.png"}, "line 2"),
        ({"prompt": 7}, "line 2"),
        ("[1]", "line 2"),
    ],
    ids=["cut", "no prompt", "prompt is a number", "list"],
)
def test_a_wrong_line_is_named(pictures, tmp_path, row, words):
    path = write_lines(tmp_path / "set.jsonl", {"image": "pictures/1.png", "prompt": "?"}, row)
    with pytest.raises(CalibrationError, match=words):
        read(path, tmp_path)


def test_images_that_are_all_unreadable(pictures, tmp_path):
    for picture in pictures.iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match="None of the 10 images"):
        read(pictures, tmp_path)


@pytest.mark.parametrize("kind", ["folder", "jsonl"])
def test_an_empty_set(tmp_path, kind):
    empty = tmp_path / ("set.jsonl" if kind == "jsonl" else "none")
    empty.touch() if kind == "jsonl" else empty.mkdir()
    with pytest.raises(CalibrationError, match="no calibration samples"):
        read(empty, tmp_path)


def test_no_such_set_and_no_such_text(pictures, tmp_path):
    with pytest.raises(CalibrationError, match="no such file"):
        read(tmp_path / "nowhere.jsonl", tmp_path)
    with pytest.raises(CalibrationError, match="no such text file"):
        read(pictures, tmp_path, text="nowhere.txt")


def test_empty_text(pictures, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(CalibrationError, match="contains no text"):
        read(pictures, tmp_path, text=str(tmp_path / "empty.txt"))


@pytest.mark.parametrize(("alpha", "n_samples"), [(1.5, 8), (-0.1, 8), (0.5, 0)])
def test_shares_and_numbers_that_make_no_sense(pictures, tmp_path, alpha, n_samples):
    with pytest.raises(CalibrationError):
        read(pictures, tmp_path, alpha=alpha, n_samples=n_samples)


def test_rows_of_a_dataset(tmp_path):
    import datasets

    images = [Image.new("RGB", (16, 16), (i, i, i)) for i in range(4)]
    rows = datasets.Dataset.from_dict(
        {"image": images, "question": [f"q{i}" for i in range(4)], "answers": [["a"]] * 4}
    )
    found = list(samples_from_rows(rows, 3, tmp_path / "cache"))
    assert [s.prompt for s in found] == ["q0", "q1", "q2"]
    assert all(s.image.is_file() and s.answer == "a" for s in found)


def test_a_dataset_without_images_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="no image column"):
        list(samples_from_rows([{"text": "only"}], 1, tmp_path))


def test_an_unreachable_dataset_says_what_to_do(tmp_path):
    with pytest.raises(CalibrationError, match="could not be read") as caught:
        read("nobody/no-such-set", tmp_path)
    assert "--calib" in caught.value.hint


def test_a_dataset_is_measured_on_its_validation_split_and_profiled_on_its_train_split(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)  # the datasets library takes a folder's relative path for an id
    for split, colour in (("train", "red"), ("validation", "green"), ("test", "blue")):
        rows = {"image": [Image.new("RGB", (8, 8), colour)], "question": [f"{split}?"], "answers": [[{"answer": "a"}]]}
        (tmp_path / "some/set").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(f"some/set/{split}.parquet")
    cache = tmp_path / "cache"
    assert [(s.prompt, s.answers) for s in read_questions("some/set:default", None, 0, cache)] == [
        ("validation?", ("a",))
    ]
    assert [s.prompt for s in read_questions("some/set:default:test", None, 0, cache)] == ["test?"]
    assert [s.prompt for s in read("some/set:default", tmp_path, n_samples=1, alpha=1).multimodal] == ["train?"]


def test_images_that_the_processor_rejects_are_skipped_and_named_like_unreadable_ones(pictures, tmp_path):
    def check(picture):
        if picture.getpixel((0, 0)) == (60, 0, 0):
            raise ValueError("too red")

    (pictures / "0.png").write_bytes(b"no picture")
    source, options = str(pictures), {"n_samples": 10, "alpha": 1.0, "seed": 0, "cache": tmp_path}
    found = read_calibration(source, None, **options, check=check)
    assert sorted(found.skipped) == ["0.png", "3.png"]
    assert len(found.multimodal) == 8
    (pictures / "0.png").unlink()
    with pytest.raises(CalibrationError, match=r"the image 3\.png cannot be read"):
        read_questions(source, None, 0, tmp_path, check)


def test_placeholders_of_images_are_no_part_of_a_prompt(pictures, tmp_path):
    rows = [{"image": f"pictures/{i}.png", "prompt": f"<image>\nwhich {i}?", "answers": ["a"]} for i in range(8)]
    path = write_lines(tmp_path / "set.jsonl", *rows)
    found = read(path, tmp_path)
    assert {s.prompt for s in (*found.multimodal, *found.text)} <= {f"which {i}?" for i in range(8)}
    assert [s.prompt for s in read_questions(str(path), None, 0, tmp_path)] == [f"which {i}?" for i in range(8)]


def test_images_of_a_dataset_are_seen_as_images_in_files(tmp_path):
    deep = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(2, 8)
    image = Image.fromarray(deep)
    image.getexif()[0x0112] = 6
    (sample,) = samples_from_rows([{"image": image, "question": "?"}], 1, tmp_path)
    with Image.open(sample.image) as kept:
        assert np.array_equal(np.asarray(kept), np.dstack([np.rot90(deep >> 8, -1)] * 3))
    with pytest.raises(CalibrationError, match="32-bit values from 0 to 0.5"):
        list(samples_from_rows([{"image": Image.fromarray(np.float32([[0, 0.5]])), "question": "?"}], 1, tmp_path))
