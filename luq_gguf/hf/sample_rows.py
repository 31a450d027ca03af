"""What an object of a .jsonl file, or a row of a Hub dataset, says: a prompt, an image and answers.

The keys are those that public sets use. What would be asked without its picture, or scored against something else, is
refused by name: every function raises ValueError with a reason that completes the sentence "line 3 is not a sample: ".
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PROMPTS = ("prompt", "question", "query")
ANSWERS = ("answers", "direct_answers", "answer", "label")
IMAGES = ("image", "images")
OPTIONS = ("choices", "options")
LONGEST_NAME = 4096  # characters of a path on Linux
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


def single_image(row: Mapping[str, Any]) -> Any:
    """Return the value of a row's only image; None where it has none."""
    values = [row[key] for key in IMAGES if isinstance(row.get(key), list | tuple)]
    several = max((len(value) for value in values), default=0)
    further = [key for key in row if isinstance(key, str) and _FURTHER_IMAGE.match(key) and not _is_missing(row[key])]
    value = next((row[key] for key in IMAGES if not _is_missing(row.get(key))), None)
    if several > 1 or len(further) > 1 or (further and value is not None):
        raise ValueError("it has several images, and a sample has one at most")
    return value[0] if isinstance(value, list | tuple) else value


def image_name(row: Mapping[str, Any]) -> str | None:
    """Return the name of the image file of an object in a .jsonl file; None where it has no image."""
    value = single_image(row)
    if isinstance(value, Mapping):  # as the datasets library writes images
        value = value.get("path") if _is_missing(value.get("bytes")) else value
    if value is None:
        other = next((key for key in row if _is_other_image(key, row[key])), None)
        if other is not None:
            raise ValueError(f'its "{other[:40]}" is not read: the key of an image file is "image"')
        return None
    if not isinstance(value, str):
        raise ValueError('its "image" is not the name of a file')
    return _local_name(value)


def _is_other_image(key: str, value: Any) -> bool:
    return key not in IMAGES and _OTHER_IMAGE.match(key) is not None and not _is_missing(value)


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
