"""The Hub's client on our terms: it does not wait for an hour without a word, and what the Hub says is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

LONGEST_WAIT = 300.0  # seconds; if the Hub asks for more, the user is told instead
_RESET = re.compile(r"\bt=(\d+)")  # in "api";r=0;t=55: seconds until requests are accepted again


def limit_waits() -> None:
    """Make the client raise its error at once where the Hub asks to wait longer than `LONGEST_WAIT`. It would sleep for
    as long as it is asked to, five times over. Called before requests: the client replaces a session that has lost its
    connection."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    session: Any = get_session()
    hooks = getattr(session, "event_hooks", None)
    if hooks is not None and _refuse_long_wait not in hooks["response"]:  # clients before 1.0 do not wait so long
        session.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_long_wait]}


def _refuse_long_wait(response: Any) -> None:
    if response.status_code in (429, 503) and _seconds(response.headers) > LONGEST_WAIT:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        response.read()
        hf_raise_for_status(response)


def retry_after(error: Exception) -> float:
    """Return the seconds after which the Hub asks to be asked again, from the answer behind an error; 0 where it does
    not say."""
    return _seconds(getattr(getattr(error, "response", None), "headers", None) or {})


def _seconds(headers: Mapping[str, str]) -> float:
    asked = headers.get("Retry-After")
    reset = _RESET.search(headers.get("ratelimit") or "")
    try:
        seconds = float(asked or (reset[1] if reset else 0))
    except ValueError:  # a date: too rare to be read
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def words(error: Exception) -> str:
    """Return what the Hub itself said behind an error, without its last full stop; empty where it said nothing but its
    code for it."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    said = headers.get("X-Error-Message") or getattr(error, "server_message", None) or ""
    return "" if said == headers.get("X-Error-Code") else " ".join(str(said).split()).rstrip(".")
