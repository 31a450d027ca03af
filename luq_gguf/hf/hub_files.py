"""Reads parts of files in a repository of the Hub, without downloading them whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luq_gguf.core.errors import DownloadError
from luq_gguf.hf.download import one_sentence
from luq_gguf.hf.hub_client import limit_waits
from luq_gguf.hf.hub_settings import checked_settings


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its bytes, and its contents' sha256 where it is a large one."""

    n_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit, with the files of all its folders by path."""

    name: str
    revision: str
    files: Mapping[str, HubFile] = field(repr=False)

    @checked_settings()
    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` up to `end`. Raises DownloadError, also where the Hub would send the
        whole file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        data = bytearray()
        with (
            one_sentence(self.name),
            http_stream_backoff(
                "GET", hf_hub_url(self.name, path, revision=self.revision), headers=headers
            ) as response,
        ):
            hf_raise_for_status(response)
            if response.status_code != 206:
                raise DownloadError(
                    f"{self.name} cannot be read in parts: the Hub answered {response.status_code}, not 206.",
                    "Download its files, and give their folder.",
                )
            for piece in response.iter_bytes():
                data += piece
                if len(data) > end - start:
                    break
        return bytes(data[: end - start])


@checked_settings()
def open_repository(name: str) -> HubRepository:
    """List a model's repository at its newest commit. Raises the errors of `download.fetch`."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    limit_waits()
    with one_sentence(name):
        revision = str(HfApi().model_info(name).sha)
        tree = [e for e in HfApi().list_repo_tree(name, revision=revision, recursive=True) if isinstance(e, RepoFile)]
    return HubRepository(
        name,
        revision,
        {entry.path: HubFile(int(entry.size), entry.lfs.sha256 if entry.lfs else None) for entry in tree},
    )
