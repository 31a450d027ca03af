"""What a conversation in a data set says: turns, and which pictures stand where among their texts.

Two formats are read: Hugging Face's `messages` (role and content; the content is text, or a list of texts and images)
and LLaVA's `conversations` (from and value). Their pictures stand in the content itself, or in a list of their own in
the order of their places. Every function raises ValueError with a reason that completes the sentence "line 3 is not a
sample: ".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luq_gguf.core import placeholders
from luq_gguf.core.turns import Turn

FORMATS = ("messages", "conversations")
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class _Place:
    """Where a picture stands, with the picture itself, or its number in the list of pictures, where that is said."""

    value: Any = None
    index: int | None = None


_Parts = list[str | _Place]


def of(row: Mapping[str, Any]) -> Sequence[Any] | None:
    """Return the turns of a row's conversation as they were written; None where it has none."""
    for key in FORMATS:
        value = row.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f'its "{key}" is not a list of turns')
        if value:
            return value
    return None


def read(row: Mapping[str, Any], given: Sequence[Any], pictures: Sequence[Any]) -> tuple[list[Turn], list[Any]]:
    """Return a conversation's turns, also an answer at the end, and its pictures in the order of their places.
    `pictures` is the row's own list of them."""
    roles, contents = [], list[_Parts]()
    system = row.get("system")
    for number, turn in enumerate(given, 1):
        roles.append(_role(turn, number))
        contents.append(_parts(turn, number))
    if isinstance(system, str) and system.strip() and "system" not in roles:
        roles, contents = ["system", *roles], [[system], *contents]
    if "user" not in roles:
        raise ValueError("it has no turn of the user")
    values = place(contents, pictures, first=roles.index("user"))
    return [Turn(role, content) for role, content in zip(roles, _plain(contents), strict=True)], values


def prompt(text: str, pictures: Sequence[Any]) -> tuple[Turn, list[Any]]:
    """Return a prompt with several pictures as the user's turn, and the pictures in the order of their places."""
    contents: list[_Parts] = [[text]]
    values = place(contents, pictures, first=0)
    return Turn("user", _plain(contents)[0]), values


def place(contents: list[_Parts], pictures: Sequence[Any], first: int) -> list[Any]:
    """Put a place for each picture among the texts of all turns, and return the pictures in the order of their places.

    Placeholders in texts are places, unless the contents say themselves where pictures stand. A turn's only placeholder
    moves to the turn's beginning, as LLaVA's own code does it. Without any place, all pictures stand at the beginning
    of turn number `first`.
    """
    if any(isinstance(part, _Place) for parts in contents for part in parts):
        for number, parts in enumerate(contents):
            contents[number] = [placeholders.without_placeholders(p) if isinstance(p, str) else p for p in parts]
    else:
        for number, parts in enumerate(contents):
            contents[number] = [part for text in parts for part in _split(str(text))]
    places = [part for parts in contents for part in parts if isinstance(part, _Place)]
    if not places:
        contents[first] = [*(_Place() for _ in pictures), *contents[first]]
        return list(pictures)
    unnamed = [part for part in places if part.value is None]
    if any(part.index is not None for part in unnamed):
        numbers = [len(pictures) if part.index is None else part.index for part in unnamed]
        if set(numbers) != set(range(len(pictures))):
            raise ValueError(f'the values of "index" in its turns do not match its {_count(len(pictures), "image")}')
    else:
        numbers = list(range(len(unnamed)))
        if len(unnamed) != len(pictures):
            n_images, n_places = _count(len(pictures), "image"), _count(len(unnamed), "placeholder")
            raise ValueError(f"it has {n_images} and {n_places} for images")
    listed = iter([pictures[number] for number in numbers])
    return [next(listed) if part.value is None else part.value for part in places]


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _split(text: str) -> _Parts:
    """A text with its placeholders as places, without the white space that held these apart from it."""
    first, *rest = placeholders.split(text)
    if len(rest) < 2:
        return [_Place(), placeholders.without_placeholders(text)] if rest else [text]
    pieces: _Parts = [first]
    for piece in rest:
        pieces += [_Place(), piece]
    parts = [part for part in pieces if isinstance(part, _Place) or part.strip()]
    texts = [number for number, part in enumerate(parts) if isinstance(part, str)]
    if texts:
        parts[texts[0]] = str(parts[texts[0]]).lstrip()
        if texts[-1] == len(parts) - 1:
            parts[-1] = str(parts[-1]).rstrip()
    return parts


def _plain(contents: Sequence[_Parts]) -> list[tuple[str | None, ...]]:
    """Contents as turns have them: None for a place, neighbouring texts joined, and none of them blank."""
    plain: list[tuple[str | None, ...]] = []
    for parts in contents:
        joined: list[str | None] = []
        for part in parts:
            if isinstance(part, _Place):
                joined.append(None)
            elif joined and joined[-1] is not None:
                joined[-1] += part
            else:
                joined.append(part)
        plain.append(tuple(part for part in joined if part is None or part.strip()))
    return plain


def _role(turn: Any, number: int) -> str:
    if not isinstance(turn, Mapping):
        raise ValueError(f"its turn {number} is not an object")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        what = f'has the role "{role[:40]}"' if isinstance(role, str) else "has no role"
        raise ValueError(f"its turn {number} {what}: the roles are system, user (human) and assistant (gpt)")
    return _ROLES[role]


def _parts(turn: Mapping[str, Any], number: int) -> _Parts:
    """The parts of a turn's content."""
    if any(turn.get(key) for key in _CALLS):
        raise ValueError(f"its turn {number} calls a tool, and tool calls are not read")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        raise ValueError(f"the content of its turn {number} is neither text nor a list of texts and images")
    return [_part(part, number) for part in content]


def _part(part: Any, number: int) -> str | _Place:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("image", "image_url"):
        named = (part.get(key) for key in ("image", "image_url", "path", "url"))
        value = next((value for value in named if value not in (None, "")), None)
        if isinstance(value, Mapping) and "url" in value:  # as OpenAI's API has it
            value = value["url"]
        index = part.get("index")
        return _Place(value, index if isinstance(index, int) else None)
    if isinstance(kind, str) and kind.startswith("video"):
        raise ValueError(f"its turn {number} contains a video, but only text and images are read")
    what = "without a type" if not isinstance(kind, str) else "without text"
    if isinstance(kind, str) and kind != "text":
        what = f'of the type "{kind[:40]}"'
    raise ValueError(f"its turn {number} contains a part {what}, but only text and images are read")
