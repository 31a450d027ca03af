"""Samples with several pictures and turns, in the formats in which data sets have them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from luq_gguf.core.errors import CalibrationError
from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample
from luq_gguf.hf import datasets
from luq_gguf.hf.sample_files import read_jsonl

FROM = {"system": "system", "user": "human", "assistant": "gpt"}
WORDS = st.text("abcé.,", min_size=1, max_size=6)
GAPS = st.sampled_from(["", " ", "\n"])


@st.composite
def questions(draw):
    """What the user says: text, text behind a picture, or several pictures with or without texts between them."""
    n = draw(st.integers(0, 3))
    if n < 2:
        return [*[None] * n, draw(WORDS)]
    between = st.just([]) | st.builds(lambda *parts: ["".join(parts)], GAPS, WORDS, GAPS)
    parts = [*draw(between), *(part for _ in range(n) for part in (None, *draw(between)))]
    parts += [] if any(parts) else [draw(WORDS)]
    first = next(number for number, part in enumerate(parts) if part)
    parts[first] = parts[first].lstrip()  # white space at the ends goes with the placeholders
    return [*parts[:-1], parts[-1] and parts[-1].rstrip()]


@st.composite
def dialogues(draw):
    """Roles and contents, from a system turn or the first question to the last question; and the answer, if any."""
    turns = [("system", [draw(WORDS)])] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [("user", draw(questions())), ("assistant", [draw(WORDS)])]
    return [*turns, ("user", draw(questions()))], draw(st.none() | WORDS)


def in_all_formats(turns, answer):
    """The same conversation as rows of all formats that can express it."""
    said = [*turns, *([("assistant", [answer])] if answer else [])]
    names = iter([f"{number}.png" for number in range(99)])
    listed = [next(names) for _, parts in said for part in parts if part is None]
    inline = iter(listed)
    strings = [(role, "".join("<image>" if part is None else part for part in parts)) for role, parts in said]

    def content(parts, picture):
        return [picture() if part is None else {"type": "text", "text": part} for part in parts]

    yield {
        "messages": [
            {"role": role, "content": content(parts, lambda: {"type": "image", "image": next(inline)})}
            for role, parts in said
        ]
    }
    lists = [{"role": role, "content": content(parts, lambda: {"type": "image"})} for role, parts in said]
    yield {"messages": lists, "images": listed}
    yield {"messages": [{"role": role, "content": text} for role, text in strings], "images": listed}
    yield {"conversations": [{"from": FROM[role], "value": text} for role, text in strings], "images": listed}
    if len(turns) == 1:
        yield {"prompt": strings[0][1], "images": listed, "answers": answer}
        if len(listed) == 1:
            yield {"prompt": strings[0][1], "image": listed[0], "answers": [answer]}
        if turns[0][1].count(None) == len(turns[0][1]) - 1 and turns[0][1][-1] is not None:
            yield {"prompt": turns[0][1][-1], "images": listed, "answers": [answer]}


@given(dialogues())
def test_all_formats_give_the_same_sample(tmp_path_factory, dialogue):
    turns, answer = dialogue
    folder = tmp_path_factory.getbasetemp()
    rows = list(in_all_formats(turns, answer))
    path = folder / "formats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    samples = list(datasets._read_set(str(path), 0, None, folder))
    assert samples == samples[:1] * len(rows)
    first = samples[0]
    assert first.conversation == tuple(Turn(role, tuple(parts)) for role, parts in turns)
    assert [image.name for image in first.images] == [f"{number}.png" for number in range(len(first.images))]
    assert first.answers == ((answer,) if answer else ())
    assert first.prompt == first.conversation[-1].text
    assert all(turn.n_pictures == 0 for turn in first.without_images.conversation)
    assert first.without_images.images == ()


def read(folder, row):
    (folder / "set.jsonl").write_text("\n" + json.dumps(row))
    return next(read_jsonl(folder / "set.jsonl"))


def turns(*contents, **first):
    """Turns of user and assistant with these contents."""
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": content} | first for role, content in zip(roles, contents, strict=False)]


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "No. 1: <image>\nNo. 2: <image>\nWhich?"}, ("No. 1: ", None, "\nNo. 2: ", None, "\nWhich?")),
        ({"prompt": "<image> <image>\nWhich?"}, (None, None, "Which?")),
        ({"prompt": "Which?"}, (None, None, "Which?")),
        ({"messages": turns("Which?")}, (None, None, "Which?")),
        ({"messages": turns("<|vision_start|><|image_pad|><|vision_end|><image>Which?")}, (None, None, "Which?")),
        ({"messages": turns([IMAGE, IMAGE, {"type": "text", "text": "<image>\nWhich?"}])}, (None, None, "Which?")),
        ({"messages": turns([{"type": "text", "text": "Wh"}, "ich?", IMAGE, IMAGE])}, ("Which?", None, None)),
    ],
)
def test_pictures_stand_where_their_places_are_and_else_in_front(tmp_path, row, content):
    sample = read(tmp_path, {"images": ["a.png", "b.png"]} | row)
    assert sample.conversation == (Turn("user", content),)
    assert [image.name for image in sample.images] == ["a.png", "b.png"]


def test_numbers_of_pictures_are_followed(tmp_path):
    parts = [{"type": "image", "index": 1, "text": None}, {"type": "image", "index": 0}, {"type": "image", "index": 1}]
    row = {"messages": turns([*parts, {"type": "text", "text": "Which?", "index": None}]), "images": ["a.png", "b.png"]}
    assert [image.name for image in read(tmp_path, row).images] == ["b.png", "a.png", "b.png"]


def test_a_system_text_of_its_own_is_the_first_turn(tmp_path):
    row = {"conversations": turns("a?", "b"), "system": "be short"}
    sample = read(tmp_path, row)
    assert sample.conversation == (Turn("system", ("be short",)), Turn("user", ("a?",)))
    assert sample.answers == ("b",)


def test_answers_of_a_conversation_without_its_last_turn_are_read_as_ever(tmp_path):
    assert read(tmp_path, {"messages": turns("a?"), "answers": ["b", "c"]}) == Sample("a?", (), ("b", "c"))
    assert read(tmp_path, {"messages": turns("a?", "b"), "answers": ["c"]}) == Sample("a?", (), ("b",))


def test_a_prompt_beside_a_conversation_is_the_sample_as_ever(tmp_path):
    row = {"prompt": "a?", "image": "a.png", "messages": turns("b?", "c")}
    assert read(tmp_path, row) == Sample("a?", (tmp_path / "a.png",))


VIDEO = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "x"}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "a?"}, 'its "messages" is not a list of turns'),
        ({"messages": ["a?"]}, "its turn 1 is not an object"),
        ({"messages": [{"content": "a?"}]}, "its turn 1 has no role"),
        ({"messages": [{"role": "tool", "content": "a?"}]}, 'its turn 1 has the role "tool"'),
        ({"messages": [{"role": "user"}]}, "the content of its turn 1 is neither text nor"),
        ({"messages": turns("a?", None)}, "the content of its turn 2 is neither text nor"),
        ({"messages": turns("a?", None, "b?", tool_calls=[{"id": 1}])}, "its turn 1 calls a tool"),
        ({"messages": turns([{"type": "audio", "audio": "a.wav"}])}, 'contains a part of the type "audio"'),
        ({"messages": turns([{"text": "a?"}])}, "its turn 1 contains a part without a type"),
        ({"messages": turns([{"type": "text"}])}, "its turn 1 contains a part without text"),
        ({"messages": turns(VIDEO)}, "its turn 1 contains a video"),
        ({"messages": turns("a?"), "videos": ["a.mp4"]}, 'its "videos" is not read'),
        ({"conversations": turns("<image>a?"), "video": "a.mp4"}, 'its "video" is not read'),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "it has no turn of the user"),
        ({"messages": turns("a?", "b")[:1] + turns("b", "c")[1:] * 2}, "its answer does not follow a turn of the user"),
        ({"messages": turns([{"type": "image", "image": "a.png"}])}, "its prompt is empty"),
        ({"messages": turns("a?", [{"type": "image", "image": "a.png"}])}, "its answer contains an image"),
        ({"messages": turns("<image>a?")}, "it has no images and 1 placeholder for images"),
        (
            {"messages": turns("<image>a?"), "images": ["a.png", "b.png"]},
            "it has 2 images and 1 placeholder for images",
        ),
        ({"prompt": "<image>a?", "images": ["a.png", "b.png"]}, "it has 2 images and 1 placeholder for images"),
        (
            {"messages": turns([{"type": "image", "index": 2}, "a?"]), "images": ["a.png"]},
            'the values of "index" in its turns do not match its 1 image',
        ),
        ({"messages": turns([{"type": "image", "image": 7}, "a?"])}, '"image" is not the name of a file'),
        ({"messages": turns([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}, "a?"])}, "is an address"),
        ({"messages": turns("a?"), "image_path": "a.png"}, '"image_path" is not read'),
        ({"messages": turns("a?", "\ud800")}, "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_line(tmp_path, row, reason):
    with pytest.raises(CalibrationError) as caught:
        read(tmp_path, row)
    assert caught.value.message.startswith("set.jsonl, line 2 is not a sample: ")
    assert reason in caught.value.message
    assert caught.value.message.count(". ") == 0
    assert caught.value.exit_code == 2


def test_rows_of_a_dataset_have_several_pictures_and_turns(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    content = [{"type": "image", "index": 0, "text": None}, {"type": "text", "index": None, "text": "What?"}]
    rows = [
        {"images": [red, blue], "question": "Which?", "answer": "b"},
        {"images": [red], "messages": turns(content, "red", "Sure?", "yes")},
        {
            "image": blue,
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "it"}],
        },
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "so"}]},
    ]
    several, turned, one, text = datasets.samples_from_rows(rows, None, tmp_path)
    kept = several.images
    assert len(set(kept)) == 2
    assert several == Sample("Which?", kept, ("b",))
    first = Turn("user", (None, "What?"))
    assert turned.conversation == (first, Turn("assistant", ("red",)), Turn("user", ("Sure?",)))
    assert (turned.images, turned.answers) == (kept[:1], ("yes",))
    assert one == Sample("What?", kept[1:], ("it",))
    assert text == Sample("Why?", (), ("so",))
    with pytest.raises(CalibrationError, match=r"Row 1 of the dataset is not a sample: its turn 1 contains a video"):
        list(datasets.samples_from_rows([{"messages": turns(VIDEO)}], None, tmp_path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.sampled_from(["", "a", "user", "image", "text", "<image>", "video"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "type", "text", "image", "index"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "conversations", "images", "prompt", "system"]), JSON))
def test_a_line_is_a_sample_or_refused_in_one_sentence(tmp_path_factory, row):
    try:
        sample = read(tmp_path_factory.getbasetemp(), row)
    except CalibrationError as error:
        reason = error.message
    else:
        reason = None
        assert sample.prompt.strip()
        assert sum(turn.n_pictures for turn in sample.conversation) == len(sample.images)
    assert reason is None or reason.startswith("set.jsonl, line 2 is not a sample: ")


def test_a_calibration_rests_on_every_picture_and_turn(tmp_path):
    row = {"messages": turns("<image>What?", "red", "<image>And this?", "blue"), "images": ["a.png", "b.png"]}
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row))

    def digest():
        return datasets.read_calibration(str(path), None, n_samples=2, alpha=0.5, seed=0, cache=tmp_path).sha256

    found = []
    for color in ("red", "blue"):
        for name in ("a.png", "b.png"):
            Image.new("RGB", (8, 8), color).save(tmp_path / name)
            found.append(digest() if (tmp_path / "b.png").exists() else "")
    path.write_text(path.read_text().replace('"red"', '"green"'))
    found.append(digest())
    assert len(set(found)) == 5
    path.write_text(json.dumps(row | {"images": ["a.png", "gone.png"]}))
    with pytest.raises(CalibrationError, match=r"first: gone\.png"):
        digest()
    with pytest.raises(CalibrationError, match=r"the image gone\.png cannot be read"):
        datasets.read_questions(str(path), None, 0, tmp_path)
