"""Puts the generated part of a model card into the card that a repository has, and leaves the rest of it alone.

Many people publish several sizes in one repository and write its card themselves. So what luq-gguf writes about a file
stands between two comments that name the file, and nothing outside of them is changed. The first comment has a hash of
the text, which shows whether somebody has edited it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luq_gguf.core.errors import UploadError

BEGIN = "<!-- luq-gguf: begin "
_EDGE = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_HINT = "Add --overwrite-card to replace it, or take the change over into the run folder's README.md."


@dataclass(frozen=True)
class MergedCard:
    """A card, and whether the repository's own text around ours was kept in it."""

    text: str
    kept: bool


def mark(key: str, body: str) -> str:
    """Return the section about a file, between the comments that name it."""
    body = body.strip() + "\n"
    return f"{BEGIN}{key} {_digest(body)} -->\n{body}<!-- luq-gguf: end {key} -->\n"


def merge(
    present: str | None, ours: str, key: str, repo: str, *, others: Sequence[str] = (), overwrite: bool
) -> MergedCard:
    """Return the card `present` of a repository with the section about the file `key` from `ours`, a whole card of that
    file alone, in the place of an older one or at its end.

    Sections about the files `others`, which `ours` is about too, make way for it. Metadata that `present` has stay;
    base models, tags and results are added. Raises UploadError where somebody edited a section, or where the metadata
    cannot be read, unless that may be overwritten.
    """
    data, body = _split(ours)
    section = mark(key, body)
    if present is None:
        return MergedCard(_join(_dump(data), section), kept=False)
    try:
        there, around = _split(present)
    except ValueError:
        if overwrite:
            return MergedCard(_join(_dump(data), section), kept=False)
        raise UploadError(f"The metadata of README.md in {repo} is not valid YAML.", _HINT) from None
    found = {name: match for name in (key, *others) if (match := _section(name).search(around))}
    for name, match in found.items():
        if _digest(match[2]) != match[1] and not overwrite:
            raise UploadError(f"The section about {name} in README.md of {repo} was edited there.", _HINT)
    if found:
        place = found.get(key) or min(found.values(), key=lambda match: match.start())
        before, after = _without(found, around[: place.start()]), _without(found, around[place.end() :])
        text, rest = before + section + after, before + after
    else:
        text, rest = around.rstrip() + "\n\n" + section, around
    merged = _merged(there, data)
    raw = _EDGE.match(present)
    head = raw[1] if raw and merged == there else _dump(merged)
    return MergedCard(_join(head, text), kept=bool(rest.strip()))


def _section(key: str) -> re.Pattern[str]:
    name = re.escape(key)
    return re.compile(rf"{BEGIN}{name} (\w+) -->\n(.*?)<!-- luq-gguf: end {name} -->\n?", re.DOTALL)


def _without(keys: Iterable[str], text: str) -> str:
    for key in keys:
        text = _section(key).sub("", text)
    return text


def _digest(body: str) -> str:
    return hashlib.sha256(body.replace("\r\n", "\n").encode()).hexdigest()[:16]


def _join(head: str, text: str) -> str:
    return f"---\n{head.strip()}\n---\n\n{text.strip()}\n"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text. Raises ValueError where the metadata are not a mapping."""
    from huggingface_hub import RepoCard

    card = card.replace("\r\n", "\n")
    edge = _EDGE.match(card)
    if not edge:
        return {}, card
    try:
        data = dict(RepoCard(f"---\n{edge[1]}\n---\n").data.to_dict())  # type: ignore[no-untyped-call]
    except Exception as error:  # YAML of strangers fails in many ways
        raise ValueError("not a mapping in YAML") from error
    return data, card[edge.end() :]


def _dump(data: Mapping[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    return str(yaml_dump(dict(data), sort_keys=False))


def _merged(there: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours) | dict(there)
    for name in ("base_model", "tags"):
        if name in there and name in ours:
            listed = [*_list(there[name]), *(word for word in _list(ours[name]) if word not in _list(there[name]))]
            merged[name] = there[name] if listed == _list(there[name]) else listed
    if "model-index" in ours and "model-index" in there:
        named = {entry.get("name") for entry in ours["model-index"]}
        others = [e for e in _list(there["model-index"]) if not (isinstance(e, dict) and e.get("name") in named)]
        merged["model-index"] = [*others, *ours["model-index"]]
    return {name: merged[name] for name in dict(there) | merged}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
