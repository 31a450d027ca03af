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


def test_linked_folders_are_read_and_hidden_files_are_not_by_calibration_and_questions(pictures, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("far.png", "._far.png"):
        (elsewhere / name).write_bytes((pictures / "0.png").read_bytes() if name == "far.png" else b"attributes")
    (pictures / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(pictures)
    (pictures / "._0.png").write_bytes(b"attributes")
    expected = sorted([*(f"{number}.png" for number in range(10)), "far.png"])
    calibrated = read(pictures, tmp_path, n_samples=20, alpha=1.0)
    assert sorted(s.image.name for s in calibrated.multimodal) == expected
    assert calibrated.skipped == ()
    assert sorted(s.image.name for s in read_questions(str(pictures), None, 0, tmp_path)) == expected


def test_a_jsonl_with_answers_and_relative_paths(pictures, tmp_path):
    rows = [{"image": f"pictures/{i}.png", "prompt": f"which {i}?", "answers": [f"a{i}", "b"]} for i in range(8)]
    found = read(write_lines(tmp_path / "set.jsonl", *rows), tmp_path)
    assert found.sources == ("set.jsonl",)
    assert {s.answer for s in found.multimodal} <= {f"a{i}" for i in range(8)}
    with_images, without = {s.prompt for s in found.multimodal}, {s.prompt for s in found.text}
    assert not with_images & without
    assert [(s.prompt, s.answers) for s in found.lines] == [
        (s.prompt, s.answers) for s in (*found.multimodal, *found.text)
    ]
    assert all(s.image for s in found.lines)


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


def test_a_set_of_text_is_calibration_too(tmp_path):
    path = write_lines(tmp_path / "set.jsonl", *({"question": f"which {i}?", "answer": i} for i in range(8)))
    read_set = read(path, tmp_path)
    assert (read_set.multimodal, read_set.n_text, read_set.alpha, read_set.without_images) == ((), 8, 0.0, True)
    assert {sample.prompt for sample in read_set.text} == {f"which {i}?" for i in range(8)}
    assert {sample.answer for sample in read_set.text} == {str(i) for i in range(8)}
    assert read(path, tmp_path, alpha=0).without_images is False, "nobody asked for images"


def test_a_set_of_text_beside_a_text_is_refused(tmp_path):
    path = write_lines(tmp_path / "set.jsonl", {"prompt": "which?"})
    (tmp_path / "book.txt").write_text("Call me what you like.")
    with pytest.raises(CalibrationError, match="has no images") as caught:
        read(path, tmp_path, text=str(tmp_path / "book.txt"))
    assert "--calib-text" in caught.value.hint


def test_a_folder_of_pictures_that_are_not_read_names_them(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x1cftypheic" + bytes(100))
    with pytest.raises(CalibrationError, match=r"None of the 3 images .* \(first: IMG_\d.HEIC\)") as caught:
        read(tmp_path / "photos", tmp_path)
    assert "HEIC" in caught.value.hint


def test_hidden_files_of_a_folder_are_no_images(pictures, tmp_path):
    (pictures / "._0.png").write_bytes(b"what macOS keeps beside a file on other disks")
    read_set = read(pictures, tmp_path, n_samples=20, alpha=1.0)
    assert (len(read_set.multimodal), read_set.skipped) == (10, ())


@pytest.mark.parametrize(("content", "what"), [("Text".encode("utf-16"), "in UTF-16"), (b"caf\xe9", "not UTF-8")])
def test_a_text_in_another_encoding_is_named(pictures, tmp_path, content, what):
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(CalibrationError, match=what):
        read(pictures, tmp_path, text=str(tmp_path / "book.txt"))


def test_a_mark_at_the_beginning_is_no_part_of_a_text(pictures, tmp_path):
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbfCall me what you like.")
    assert read(pictures, tmp_path, text=str(tmp_path / "book.txt")).document == "Call me what you like."


def test_all_rows_of_a_dataset_are_measured(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    (tmp_path / "some/set").mkdir(parents=True)
    rows = {"question": [f"q{i}" for i in range(1100)], "answer": list(range(1100))}
    datasets.Dataset.from_dict(rows).to_parquet("some/set/test.parquet")
    samples = read_questions("some/set:default", None, 0, tmp_path / "cache")
    assert {(s.prompt, s.answers) for s in samples} == {(f"q{i}", (str(i),)) for i in range(1100)}
    assert len(read_questions("some/set:default", 5, 0, tmp_path / "cache")) == 5


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": 0, "image_2": 0, "question": "?"}, "several images"),
        ({"photo": 0, "question": "?"}, "no image column"),
        ({"image": "a.png", "question": "?"}, "no image column"),
    ],
)
def test_rows_that_would_be_asked_without_their_images_are_refused(tmp_path, columns, words):
    picture = Image.new("RGB", (8, 8))
    row = {k: picture if v == 0 else [picture] * 2 if isinstance(v, list) else v for k, v in columns.items()}
    with pytest.raises(CalibrationError, match=words):
        list(samples_from_rows([row], None, tmp_path))


def test_a_column_of_something_else_is_no_answer(tmp_path):
    picture = Image.new("RGB", (8, 8))
    rows = [{"image": picture, "question": "?", "label": picture}, {"image": picture, "direct_answers": "['a', 'b']"}]
    assert [s.answers for s in samples_from_rows(rows, None, tmp_path)] == [(), ("a", "b")]


def test_classes_of_a_dataset_are_answers_by_their_names(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    (tmp_path / "some/set").mkdir(parents=True)
    features = datasets.Features(
        {"question": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"question": ["a", "b", "c"], "label": [0, 1, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet("some/set/test.parquet")
    samples = read_questions("some/set:default", None, 0, tmp_path / "cache")
    assert {s.prompt: s.answers for s in samples} == {"a": ("cat",), "b": ("dog",), "c": ()}


def test_images_that_the_processor_rejects_are_skipped_and_named_like_unreadable_ones(pictures, tmp_path):
    def check(picture):
        if picture.getpixel((0, 0)) == (60, 0, 0):
            raise ValueError("too red")

    check.key = "not too red"
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


def test_questions_have_their_splits_also_where_some_are_drawn(tmp_path):
    rows = [{"prompt": f"{i}?", "answers": ["a"], "split": ("read", "count")[i % 2]} for i in range(10)]
    path = write_lines(tmp_path / "set.jsonl", *rows)
    assert [s.split for s in read_questions(str(path), None, 0, tmp_path)] == ["read", "count"] * 5
    drawn = read_questions(str(path), 4, 0, tmp_path)
    assert [s.split for s in drawn] == [("read", "count")[int(s.prompt[:-1]) % 2] for s in drawn]


def test_a_line_without_the_split_that_others_have_is_named(tmp_path):
    rows = [{"prompt": f"{i}?", "split": "read"} for i in range(3)] + [{"prompt": "last?"}]
    with pytest.raises(CalibrationError) as caught:
        read_questions(str(write_lines(tmp_path / "set.jsonl", *rows)), None, 0, tmp_path)
    assert caught.value.message == 'set.jsonl, line 4 has no "split", and other lines have one.'
    assert caught.value.hint == 'Give every line a "split", or none of them.'


def test_rows_of_a_dataset_have_splits_where_their_column_names_them(tmp_path):
    rows = [{"question": "a?", "split": "read"}, {"question": "b?", "split": 3}]
    assert [s.split for s in samples_from_rows(rows, None, tmp_path)] == ["read", None]
