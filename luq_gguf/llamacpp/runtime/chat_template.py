"""A prompt in a GGUF file's own chat template, with libmtmd's marker where the image goes. Templates are sandboxed, and
bounded in time and memory."""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luq_gguf.core.chat_date import strftime_now
from luq_gguf.core.sandbox_limits import bounded

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
    image).

    The template is rendered as transformers does, with an image in the turn's content, and without it: what the image
    adds is replaced by the marker, and of what was there only its special tokens are dropped, because libmtmd writes
    those around the image itself. A template that knows no images gets the marker as text. Raises ValueError where
    the template cannot be rendered.
    """
    if not template:
        return (marker or "") + prompt
    try:
        with bounded():
            return _rendered(template, prompt, marker, bos, eos)
    except Exception as error:  # a template is a program of somebody's
        raise ValueError(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from None


def _rendered(template: str, prompt: str, marker: str | None, bos: str, eos: str) -> str:
    text = {"type": "text", "text": prompt}
    try:
        without = _render(template, [text], bos, eos)
    except (TypeError, TemplateError):
        without = ""
    if prompt.strip() not in without or _leaks(without, prompt):  # it takes contents as strings only
        return _render(template, (marker or "") + prompt, bos, eos)
    if marker is None:
        return without
    within = _render(template, [{"type": "image"}, text], bos, eos)
    if within == without:
        return _render(template, [{"type": "text", "text": marker + prompt}], bos, eos)
    return _replace_image(within, without, marker)


def _leaks(text: str, prompt: str) -> bool:
    """Whether a template has written the list of contents out, as Python or as JSON."""
    return any(part in text and part not in prompt for part in ("'type'", '"type":'))


def _replace_image(within: str, without: str, marker: str) -> str:
    """`within` is `without` and what an image adds at one place, which may be told in several ways: the first that
    begins with a special token is right ("<image>\\n", not "\\n<image>" of "...\\n<image>\\n...")."""
    n_added = len(within) - len(without)
    starts = [
        i
        for i in range(len(without) + 1)
        if n_added > 0 and within[:i] == without[:i] and within[i + n_added :] == without[i:]
    ]
    if not starts:
        raise TemplateError("an image changes the text around it")
    start = next((i for i in starts if _SPECIAL.match(within, i)), starts[0])
    added = within[start : start + n_added]
    token = _SPECIAL.search(added)
    if not token:
        raise TemplateError("an image adds no special token to it")
    head, tail = added[: token.start()], _SPECIAL.sub("", added[token.end() :])
    return within[:start] + head + marker + tail + within[start + n_added :]


def _render(template: str, content: Any, bos: str, eos: str) -> str:
    def fail(message: str) -> None:
        raise TemplateError(message)

    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = _to_json
    return environment.from_string(template).render(
        messages=[{"role": "user", "content": content}],
        tools=None,
        documents=None,
        add_generation_prompt=True,
        bos_token=bos,
        eos_token=eos,
    )


def _to_json(value: Any, **options: Any) -> str:
    """The filter as chat templates know it: jinja2's own would escape characters of HTML."""
    return json.dumps(value, **({"ensure_ascii": False} | options))
