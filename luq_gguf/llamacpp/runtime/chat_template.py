"""A prompt in a GGUF file's own chat template, with libmtmd's markers where images go. Templates are sandboxed, and
bounded in time and memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luq_gguf.core.chat_date import strftime_now
from luq_gguf.core.sandbox_limits import bounded
from luq_gguf.core.turns import Turn, is_prompt, n_pictures, prompt_turns

_SPECIAL = re.compile(r"<[^<>\n]*>|\[[A-Z_]+\]")


class _Sandbox(ImmutableSandboxedEnvironment):
    """One power of large numbers is a single step, which no timer interrupts; chat templates need none."""

    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError("powers are not allowed")


class _Generation(Extension):
    """The tag {% generation %}, with which a template marks what trainers learn from; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # names set inside end with it, as in transformers


def render(template: str | None, prompt: str, marker: str | None, bos: str = "", eos: str = "") -> str:
    """Return one user turn and the beginning of the answer; `marker` stands for an image before the prompt (None: no
    image). Raises ValueError as `render_turns` does."""
    return render_turns(template, prompt_turns(prompt, int(marker is not None)), marker or "", bos, eos)


def render_turns(template: str | None, turns: Sequence[Turn], marker: str, bos: str = "", eos: str = "") -> str:
    """Return a conversation and the beginning of the answer, with `marker` where an image goes.

    The template is rendered as transformers does, with one image after the other in the turns' contents: what an image
    adds is replaced by the marker, and of what was there only its special tokens are dropped, because libmtmd writes
    those around the image itself. A template that knows no images gets markers as text. Raises ValueError where the
    template cannot be rendered, or does not place all images and turns.
    """
    if not template:
        if len(turns) > 1:
            raise ValueError("the file has no chat template, which would place the turns of a conversation")
        return _with_markers(turns[0], marker)
    try:
        with bounded():
            return _rendered(template, turns, marker, bos, eos)
    except Exception as error:  # a template is a program of somebody's
        raise ValueError(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from None


def _with_markers(turn: Turn, marker: str) -> str:
    return "".join(marker if part is None else part for part in turn.content)


def _rendered(template: str, turns: Sequence[Turn], marker: str, bos: str, eos: str) -> str:
    n = n_pictures(turns)
    for only_user in (False, True) if any(turn.role != "user" for turn in turns) else (False,):
        try:
            without = _render(template, _lists(turns, 0, only_user=only_user), bos, eos)
        except (TypeError, TemplateError):
            continue
        if _drops(without, turns) or _leaks(without, turns):
            continue
        texts = [without]
        for count in range(1, n + 1):
            texts.append(_render(template, _lists(turns, count, only_user=only_user), bos, eos))
            if texts[-1] == texts[-2]:
                if count > 1:
                    raise TemplateError(f"it places {count - 1} of {n} images")
                marked = [Turn(turn.role, (_with_markers(turn, marker),)) for turn in turns]
                return _render(template, _lists(marked, 0, only_user=only_user), bos, eos)
        return _replace_images(texts, marker)
    # it takes contents as strings only
    text = _render(template, [{"role": t.role, "content": _with_markers(t, marker)} for t in turns], bos, eos)
    if not is_prompt(turns) and (_drops(text, turns) or text.count(marker) != n):
        raise TemplateError("it drops one of the prompts or images")
    return text


def _lists(turns: Sequence[Turn], n: int, *, only_user: bool) -> list[dict[str, Any]]:
    """Messages with the first `n` images and no others; contents are lists, or those of the user alone."""
    messages, before = list[dict[str, Any]](), 0
    for turn in turns:
        parts: list[dict[str, str]] = []
        for part in turn.content:
            if part is not None:
                parts.append({"type": "text", "text": part})
            elif before < n:
                parts.append({"type": "image"})
            before += part is None
        as_list = turn.role == "user" or not only_user
        messages.append(
            {"role": turn.role, "content": (parts or [{"type": "text", "text": ""}]) if as_list else turn.text}
        )
    return messages


def _drops(text: str, turns: Sequence[Turn]) -> bool:
    """Whether a rendering lacks something that the user says."""
    return any(part.strip() not in text for turn in turns if turn.role == "user" for part in turn.content if part)


def _leaks(text: str, turns: Sequence[Turn]) -> bool:
    """Whether a template has written the list of contents out, as Python or as JSON."""
    return any(leak in text and not any(leak in turn.text for turn in turns) for leak in ("'type'", '"type":'))


def _replace_images(texts: Sequence[str], marker: str) -> str:
    """Each text is the one before it and what one more image adds, behind what the images before it add. The place may
    be told in several ways: the first that begins with a special token is right ("<image>\\n", not "\\n<image>" of
    "...\\n<image>\\n...")."""
    pieces, end = list[str](), 0
    for without, within in pairwise(texts):
        n_added = len(within) - len(without)
        starts = [
            i
            for i in range(end, len(without) + 1)
            if n_added > 0 and within[:i] == without[:i] and within[i + n_added :] == without[i:]
        ]
        if not starts:
            raise TemplateError("an image changes the text around it")
        start = next((i for i in starts if _SPECIAL.match(within, i)), starts[0])
        added = within[start : start + n_added]
        token = _SPECIAL.search(added)
        if not token:
            raise TemplateError("an image adds no special token to it")
        pieces += [within[end:start], added[: token.start()], marker, _SPECIAL.sub("", added[token.end() :])]
        end = start + n_added
    return "".join([*pieces, texts[-1][end:]])


def _render(template: str, messages: list[dict[str, Any]], bos: str, eos: str) -> str:
    def fail(message: str) -> None:
        raise TemplateError(message)

    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = _to_json
    return environment.from_string(template).render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=True,
        bos_token=bos,
        eos_token=eos,
    )


def _to_json(value: Any, **options: Any) -> str:
    """The filter as chat templates know it: jinja2's own would escape characters of HTML."""
    return json.dumps(value, **({"ensure_ascii": False} | options))
