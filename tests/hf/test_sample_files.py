"""Lines of .jsonl files as people and programs save them: what is read of them, and what is said of the others."""

import json

import pytest
from PIL import Image

from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.types import Sample
from luq_gguf.hf.sample_files import read_jsonl

LINE = {"image": "a.png", "prompt": "what color?", "answers": ["red"]}


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def read(folder, *rows, encoding="utf-8", end="\n"):
    path = folder / "set.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return list(read_jsonl(path))


def refusal(folder, *rows, **how):
    with pytest.raises(CalibrationError) as caught:
        read(folder, *rows, **how)
    assert caught.value.hint
    assert "calibration" not in caught.value.message + caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        ({"answers": "red"}, ["red"]),
        ({"answer": "red"}, ["red"]),
        ({"label": "red"}, ["red"]),
        ({"answers": 3}, ["3"]),
        ({"answer": 0}, ["0"]),
        ({"answers": [0, 1.5, 2.0]}, ["0", "1.5", "2"]),
        ({"answer": True}, ["yes"]),
        ({"answers": [False]}, ["no"]),
        ({"answers": None, "answer": "red"}, ["red"]),
        ({"answers": [], "answer": "red"}, ["red"]),
        ({"answers": "", "answer": "red"}, ["red"]),
        ({"answers": [None, "", " ", "red"]}, ["red"]),
        ({"answers": [{"answer": "red", "answer_id": 1}, {"answer": "crimson"}]}, ["red", "crimson"]),
        ({"answers": {"text": ["red"], "answer_start": [4]}}, ["red"]),
        ({"direct_answers": "['red', 'dark red']"}, ["red", "dark red"]),
        ({"answer": "[1, 2]"}, ["[1, 2]"]),
        ({"answers": ["?"]}, ["?"]),
        ({}, []),
        ({"answers": None}, []),
        ({"answers": [[]]}, []),
    ],
)
def test_answers_in_any_form(picture, tmp_path, given, answers):
    (sample,) = read(tmp_path, {"image": "a.png", "prompt": "what color?"} | given)
    assert sample == Sample("what color?", (picture,), tuple(answers))


def test_a_cell_without_a_value_is_what_pandas_writes(picture, tmp_path):
    assert read(tmp_path, '{"prompt": "x", "answers": NaN, "image": NaN}') == [Sample("x")]


@pytest.mark.parametrize(
    "given",
    [
        {"images": ["a.png"]},
        {"images": "a.png"},
        {"image": ["a.png"]},
        {"image": None, "images": ["a.png"]},
        {"image": "a.png", "images": ["a.png"], "image_id": 7},
        {"image": {"bytes": None, "path": "a.png"}},
        {"image": ".\\a.png"},
    ],
)
def test_the_image_in_any_form(picture, tmp_path, given):
    (sample,) = read(tmp_path, {"prompt": "x"} | given)
    assert sample.image.resolve() == picture


def test_the_image_as_a_file_uri(tmp_path):
    spaced = tmp_path / "a picture.png"
    Image.new("RGB", (8, 8)).save(spaced)
    assert read(tmp_path, {"prompt": "x", "image": spaced.as_uri()})[0].image == spaced


@pytest.mark.parametrize("given", [{"image": None}, {"images": []}, {"image": ""}, {}])
def test_a_line_without_an_image(tmp_path, given):
    assert read(tmp_path, {"question": "what color?"} | given) == [Sample("what color?")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "a.png", "images": ["a.png", "b.png"], "prompt": "x"}, "several images"),
        ({"image": "a.png", "image2": "b.png", "prompt": "x"}, "several images"),
        ({"image_1": "a.png", "image_2": "b.png", "prompt": "x"}, "several images"),
        ({"image_path": "a.png", "prompt": "x"}, '"image_path" is not read'),
        ({"img": "a.png", "prompt": "x"}, '"img" is not read'),
        ({"image_id": 7, "prompt": "x"}, '"image_id" is not read'),
        ({"file_name": "a.png", "prompt": "x"}, '"file_name" is not read'),
        ({"video": "a.mp4", "prompt": "x"}, '"video" is not read'),
        ({"image": "a.png", "videos": ["a.mp4"], "prompt": "x"}, '"videos" is not read'),
        ({"image": 5, "prompt": "x"}, '"image" is not the name of a file'),
        ({"image": {"bytes": "iVBO", "path": None}, "prompt": "x"}, '"image" is not the name of a file'),
        ({"image": "https://example.org/a.png", "prompt": "x"}, "its image is an address"),
        ({"image": "a.png"}, 'it has no "prompt", only "image"'),
        ({"messages": [], "images": ["a.png"]}, 'it has no "prompt", only "messages", "images"'),
        ({"prompt": " "}, "its prompt is empty"),
        ({"prompt": 7}, 'its "prompt" is not text'),
        ({"prompt": "x", "answers": {"a": 1}}, 'its "answers" is neither text nor a number'),
        ({"prompt": "x", "choices": ["red", "blue"], "answer": 0}, "is the number of a choice"),
        ({"prompt": "x", "label": 3}, 'its "label" may be the number of a class'),
        ({"prompt": "x", "label": [0, 3]}, 'its "label" may be the number of a class'),
        ('{"prompt": "x", "answers": [1e999]}', 'its "answers" is neither text nor a number'),
        ('{"prompt": "x", "answer": "a", "answer": "b"}', 'the key "answer" occurs twice'),
        ('{"prompt": "x"', "it is not JSON (Expecting ',' delimiter"),
        (r'{"prompt": "x", "image": "pics\cat.png"}', "write / in paths"),
        ("{}", "it is an empty object"),
        ("[1]", "it is not an object"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_what_is_no_sample_is_refused_with_line_and_reason(picture, tmp_path, row, reason):
    told = refusal(tmp_path, LINE, row)
    assert told.message.startswith("set.jsonl, line 2 is not a sample: ")
    assert reason in told.message


@pytest.mark.parametrize("start", ["data:image/png;base64,", ""])
def test_a_picture_in_base64_is_not_printed(tmp_path, start):
    told = refusal(tmp_path, {"image": start + "iVBORw0KGgoA" * 1000, "prompt": "x"})
    assert "save the image as a file" in told.message
    assert "iVBOR" not in told.message


@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n\r\n"), ("utf-8", "\r")]
)
def test_marks_and_line_ends_change_nothing(picture, tmp_path, encoding, end):
    expected = Sample("what color?", (picture,), ("grün",))
    row = json.dumps(LINE | {"answers": ["grün"]}, ensure_ascii=False)
    assert read(tmp_path, row, "", row, "  ", encoding=encoding, end=end) == [expected] * 2


def test_files_put_together_have_marks_in_the_middle(picture, tmp_path):
    assert len(read(tmp_path, "\ufeff" + json.dumps(LINE), "\ufeff" + json.dumps(LINE))) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    told = refusal(tmp_path, LINE, encoding=encoding)
    assert told.message == "set.jsonl is in UTF-16."
    assert told.hint == "Save it as plain text in UTF-8."


def test_latin_1_is_named_with_its_line(tmp_path):
    told = refusal(tmp_path, LINE, '{"prompt": "é"}', encoding="latin-1")
    assert told.message == "set.jsonl, line 2 is not a sample: it is not UTF-8."


@pytest.mark.parametrize(
    ("start", "what"), [(b"\x1f\x8b\x08\x00", "compressed with gzip"), (b"PK\x03\x04", "a zip archive")]
)
def test_archives_are_named(tmp_path, start, what):
    (tmp_path / "set.jsonl").write_bytes(start + bytes(100))
    with pytest.raises(CalibrationError, match=what):
        list(read_jsonl(tmp_path / "set.jsonl"))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_is_named(tmp_path, indent):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([LINE, LINE], indent=indent))
    with pytest.raises(CalibrationError) as caught:
        list(read_jsonl(path))
    assert caught.value.message == "list.json is a JSON list, and not one object per line."
    assert caught.value.hint == "Run jq -c '.[]' list.json > list.jsonl."


def splits_of(folder, *rows):
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps({"prompt": "what color?", "answers": ["red"]} | row) + "\n" for row in rows))
    return [sample.split for sample in read_jsonl(path, with_splits=True)]


def test_a_split_is_read_where_files_are_measured_and_is_no_part_of_the_question(tmp_path):
    assert splits_of(tmp_path, {"split": "read"}, {"split": "  count  it "}, {}, {"split": None}, {"split": " "}) == [
        *("read", "count it"), None, None, None
    ]  # fmt: skip
    conversation = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(conversation | {"split": "talk"}))
    assert [sample.split for sample in read_jsonl(tmp_path / "talk.jsonl", with_splits=True)] == ["talk"]
    assert Sample("a", split="read") == Sample("a", split="count")
    assert hash(Sample("a", split="read")) == hash(Sample("a"))


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (3, 'its "split" is not text'),
        (["read"], 'its "split" is not text'),
        (True, 'its "split" is not text'),
        ("x" * 61, 'its "split" is not a name of at most 60 printable characters'),
        ("a\u0007b", 'its "split" is not a name of at most 60 printable characters'),
        ("a\ud800", "it contains half of a surrogate pair"),
    ],
)
def test_a_split_that_is_no_name_is_refused_with_its_line(tmp_path, split, why):
    with pytest.raises(CalibrationError) as caught:
        splits_of(tmp_path, {"split": "read"}, {"split": split})
    assert caught.value.message == f"set.jsonl, line 2 is not a sample: {why}."
    assert [sample.split for sample in read_jsonl(tmp_path / "set.jsonl")] == [None, None], "calibration needs none"
