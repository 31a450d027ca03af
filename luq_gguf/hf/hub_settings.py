"""What the user's settings for the Hub can be wrong in: its address, a proxy, an access token."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from luq_gguf.core.errors import HubAccessError

_SOCKS_PACKAGE = "socksio"  # what the client's HTTP library imports for a SOCKS proxy


@contextmanager
def checked_settings() -> Iterator[None]:
    """Raise HubAccessError where the block cannot reach any Hub: its address has no scheme, or the package for the
    proxy is missing. Also a decorator."""
    from huggingface_hub.constants import ENDPOINT

    if not ENDPOINT.startswith(("https://", "http://")):
        raise HubAccessError(
            f"HF_ENDPOINT is {ENDPOINT}, which does not begin with https://.",
            f"Write it as a whole address: export HF_ENDPOINT=https://{ENDPOINT}",
        )
    try:
        yield
    except ImportError as error:
        if "SOCKS" not in str(error):
            raise
        raise HubAccessError(
            f"The Hub is to be reached through a SOCKS proxy, but the Python package {_SOCKS_PACKAGE} is not "
            "installed.",
            f"pip install {_SOCKS_PACKAGE}, or unset the proxy (ALL_PROXY, HTTPS_PROXY).",
        ) from None


def refused_token(permission: str = "") -> HubAccessError:
    """Return the error of an access token that the Hub does not accept; `permission` is what a new one needs."""
    from huggingface_hub.constants import ENDPOINT

    if os.environ.get("HF_TOKEN"):  # it comes before what hf auth login keeps
        return HubAccessError(
            "The Hub does not accept your access token (HF_TOKEN).",
            f"Create an access token{permission} at {ENDPOINT}/settings/tokens and put it into HF_TOKEN, or unset it.",
        )
    return HubAccessError(
        "The Hub does not accept your access token.",
        f"Create an access token{permission} at {ENDPOINT}/settings/tokens, then run: hf auth login",
    )
