"""What an object of a .jsonl file, or a row of a Hub dataset, says: a prompt or a conversation, pictures and answers.

The keys are those that public sets use. What would be asked without its picture, or scored against something else, is
refused by name: every function raises ValueError with a reason that completes the sentence "line 3 is not a sample: ".
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from luq_gguf.core.turns import Turn
from luq_gguf.core.types import Sample
from luq_gguf.hf import conversations

PROMPTS = ("prompt", "question", "query")
ANSWERS = ("answers", "direct_answers", "answer", "label")
SPLIT = "split"
IMAGES = ("image", "images")
VIDEOS = ("video", "videos")
OPTIONS = ("choices", "options")
LONGEST_NAME = 4096  # characters of a path on Linux
LONGEST_SPLIT = 60  # characters of a head in tables
_OTHER_IMAGE = re.compile(r"(images?|img|picture|photo|video|audio)|file_?name$", re.IGNORECASE)
_FURTHER_IMAGE = re.compile(r"(image|img|picture|photo)[ _-]?\d+$", re.IGNORECASE)
_SCHEME = re.compile(r"(data|https?|ftp|s3|gs|hf|file):", re.IGNORECASE)


def prompt_of(row: Mapping[str, Any]) -> str | None:
    """Return the prompt; None where the row has none."""
    key = next((key for key in PROMPTS if not _is_missing(row.get(key))), None)
    if key is None:
        return None
    if not isinstance(row[key], str):
        raise ValueError(f'its "{key}" is not text')
    return str(row[key])


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the accepted answers as text; none where the keys are missing, null or empty.

    Numbers are written without a trailing ".0", true and false as "yes" and "no"; of an object {"answer": ...}, as
    VQAv2 has one for each person, the answer is taken.
    """
    for key in ANSWERS:
        value = row.get(key)
        if key == "label" and any(map(_is_number, value if isinstance(value, list | tuple) else [value])):
            raise ValueError('its "label" may be the number of a class: write the answer under "answer"')
        if _is_number(value) and any(isinstance(row.get(name), list) for name in OPTIONS):
            raise ValueError(f'its "{key}" is the number of a choice: write the letter or the text of the choice')
        given = tuple(_texts(value, key))
        if given:
            return given
    return ()


def split_of(row: Mapping[str, Any]) -> str | None:
    """Return the name of the split that a question belongs to; None where the key is missing, null or empty."""
    value = row.get(SPLIT)
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f'its "{SPLIT}" is not text')
    name = " ".join(value.split())
    check_text(name)
    if len(name) > LONGEST_SPLIT or not name.isprintable():
        raise ValueError(f'its "{SPLIT}" is not a name of at most {LONGEST_SPLIT} printable characters')
    return name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not _is_missing(value)


def _texts(value: Any, key: str, depth: int = 0) -> list[str]:
    if _is_missing(value):
        return []
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, int):
        return [str(value)]
    if isinstance(value, float) and math.isfinite(value):
        return [str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)]
    if isinstance(value, str):
        return list(_listed(value) or (value,))
    if isinstance(value, Mapping) and depth < 3:
        inner = next((value[name] for name in ("answer", "text") if name in value), value)
        if inner is not value:
            return _texts(inner, key, depth + 1)
    if isinstance(value, list | tuple) and depth < 3:
        return [text for inner in value for text in _texts(inner, key, depth + 1)]
    raise ValueError(f'its "{key}" is neither text nor a number nor a list of these')


def _listed(text: str) -> list[str] | None:
    """Return the texts of a list that was saved as text ("['a', 'b']", as A-OKVQA has them); None for other text."""
    if not (text.startswith("[") and text.endswith("]") and len(text) < 20_000):
        return None
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    is_list = isinstance(values, list) and values and all(isinstance(value, str) and value.strip() for value in values)
    return values if is_list else None


def _is_missing(value: Any) -> bool:
    """Whether a value is null, empty, or NaN, which is what pandas saves for a cell without a value."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ([], (), {})


def images_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the values of a row's pictures, in their order."""
    video = next((key for key in VIDEOS if not _is_missing(row.get(key))), None)
    if video:
        raise ValueError(f'its "{video}" is not read: only text and images are')
    values = [_listed_images(row[key]) for key in IMAGES if not _is_missing(row.get(key))]
    further = [key for key in row if isinstance(key, str) and _FURTHER_IMAGE.match(key) and not _is_missing(row[key])]
    if len(further) > 1 or (further and values) or (len(values) > 1 and max(map(len, values)) > 1):
        raise ValueError('it has several images under different keys: list all of them under "images"')
    return values[0] if values else []


def _listed_images(value: Any) -> list[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    return [inner for inner in values if not _is_missing(inner) and not _is_no_image(inner)]


def _is_no_image(value: Any) -> bool:
    """Whether a value is what the datasets library writes where there is no image."""
    return isinstance(value, Mapping) and all(map(_is_missing, value.values()))


def image_name(value: Any) -> str:
    """Return the name of the image file that a value in a .jsonl file stands for."""
    if isinstance(value, Mapping):  # as the datasets library writes images
        value = value.get("path") if _is_missing(value.get("bytes")) else value
    if not isinstance(value, str):
        raise ValueError('its "image" is not the name of a file')
    check_text(value)
    return _local_name(value)


def check_text(text: str) -> None:
    """Refuse text that JSON can hold, and no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it contains half of a surrogate pair")


def check_no_other_image(row: Mapping[str, Any]) -> None:
    """Refuse a row that has no image under the keys that are read, and one under another."""
    other = next((key for key in row if _is_other_image(key, row[key])), None)
    if other is not None:
        raise ValueError(f'its "{other[:40]}" is not read: the key of an image file is "image"')


def sample_of(
    row: Mapping[str, Any],
    path_of: Callable[[Any], Path],
    answers: Callable[[Mapping[str, Any]], tuple[str, ...]] = answers_of,
    line: int | None = None,
) -> Sample | None:
    """Return the sample of a row: a prompt with its pictures, or a conversation, of which the assistant's last turn is
    the answer. None where it has neither. `path_of` gives the file of a picture's value."""
    text, images = prompt_of(row), images_of(row)
    if text is not None and len(images) < 2:
        return Sample(text, tuple(map(path_of, images)), answers(row), line)
    if text is not None:
        turn, images = conversations.prompt(text, images)
        return _of_turns([turn], images, path_of, answers(row), line)
    given = conversations.of(row)
    if given is None:
        return None
    turns, images = conversations.read(row, given, images)
    if turns[-1].role != "assistant":
        return _of_turns(turns, images, path_of, answers(row), line)
    *turns, answer = turns
    if answer.n_pictures:
        raise ValueError("its answer contains an image, but answers are text")
    return _of_turns(turns, images, path_of, (answer.text,) if answer.content else (), line)


def _of_turns(
    turns: Sequence[Turn],
    images: Sequence[Any],
    path_of: Callable[[Any], Path],
    answers: tuple[str, ...],
    line: int | None,
) -> Sample:
    if not turns or turns[-1].role != "user":
        raise ValueError("its answer does not follow a turn of the user")
    if not turns[-1].text:
        raise ValueError("its prompt is empty")
    return Sample.of_turns(turns, tuple(map(path_of, images)), answers, line)


def _is_other_image(key: str, value: Any) -> bool:
    return key not in (*IMAGES, *VIDEOS) and _OTHER_IMAGE.match(key) is not None and not _is_missing(value)


def _local_name(name: str) -> str:
    scheme = _SCHEME.match(name)
    if scheme and scheme[1].lower() == "file":
        name = unquote(urlsplit(name).path)
    elif scheme:
        what = "a data: URI" if scheme[1].lower() == "data" else "an address"
        raise ValueError(f"its image is {what}: save the image as a file and write its name")
    if len(name) > LONGEST_NAME:
        raise ValueError("its image is too long for the name of a file: save the image as a file and write its name")
    if "\0" in name:
        raise ValueError("its image's name contains a null character")
    return name


def path_of(folder: Path, name: str) -> Path:
    """Return an image's path: relative to the folder, also where Windows wrote it with backslashes."""
    path = folder / name
    if "\\" in name and not os.path.exists(path):  # Path.exists raises where a name is too long
        return folder / name.replace("\\", "/")
    return path


def missing_prompt(row: Mapping[str, Any]) -> str:
    """Return the reason why a row without a prompt is refused, with the keys that it has."""
    if any(key in row for key in PROMPTS):
        return "its prompt is empty"
    keys = ", ".join(f'"{key[:40]}"' for key in [*row][:6])
    return f'it has no "prompt", only {keys}' if keys else "it is an empty object"
