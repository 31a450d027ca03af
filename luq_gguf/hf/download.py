"""Download a checkpoint from the Hub: only the files that are needed, at one revision, and small files are checked
before large ones are downloaded.

huggingface_hub keeps the files in its cache and resumes partial downloads; its progress bars are shown.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from luq_gguf.core import json_input
from luq_gguf.core.errors import CheckpointError, DiskSpaceError, DownloadError, UploadError
from luq_gguf.core.units import format_size
from luq_gguf.hf.hub_client import limit_waits
from luq_gguf.hf.hub_settings import checked_settings, refused_token

_SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "README.md")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_AGAIN = "run the same command again: it continues where it stopped"


@dataclass(frozen=True)
class Snapshot:
    """A downloaded checkpoint: its folder, and its commit."""

    folder: Path
    revision: str


@checked_settings()
def fetch(
    model: str, revision: str | None, check: Callable[[Path], None], *, code: bool = False, subfolder: str | None = None
) -> Snapshot:
    """Download a model's configuration, tokenizer and safetensors at a revision (None: the newest), of the repository's
    top or of a folder in it.

    `check` is called with the folder when it holds all but the weights; what it raises ends the download. Raises
    CheckpointError, HubAccessError or DiskSpaceError with what to do. `code`: Python files too.
    """
    from huggingface_hub import HfApi, snapshot_download

    limit_waits()
    start = f"{subfolder.strip('/')}/" if subfolder else ""
    with one_sentence(model, start):
        try:
            commit = str(HfApi().model_info(model, revision=revision).sha)
            sizes = _files(model, commit, start)
        except network_errors():
            cached = _cached(model, revision, start)
            if cached is None:
                raise
            check(cached.folder)
            return cached
        small = [name for name in sizes if _matches(name, _SMALL) or (code and name.endswith(".py"))]
        if "config.json" not in sizes:
            where = f"its folder {subfolder}" if subfolder else "it"
            raise CheckpointError(
                f"{model} is not a checkpoint: {where} has no config.json.",
                "Check the spelling of --subfolder."
                if subfolder
                else "Choose another model, or name the folder in it with --subfolder.",
            )
        if not any(name.endswith(".safetensors") for name in sizes) and any(_matches(n, _PICKLES) for n in sizes):
            raise CheckpointError(
                f"{model} has its weights only as pickles, which can run code when read.",
                "Choose a version of it with safetensors.",
            )
        wanted = [start + name for name in small]
        folder = Path(snapshot_download(model, revision=commit, allow_patterns=wanted)) / start
        check(folder)
        weights = _weights(folder, sizes)
        _check_room(model, folder, {name: sizes[name] for name in weights})
        snapshot_download(model, revision=commit, allow_patterns=[*wanted, *(start + name for name in weights)])
        return Snapshot(folder, commit)


@checked_settings()
def fetch_config(model: str) -> Path:
    """Download config.json alone, at the newest revision or as it is in the cache. Raises the errors of `fetch`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with one_sentence(model):
        try:
            return Path(hf_hub_download(model, "config.json"))
        except EntryNotFoundError:
            raise CheckpointError(f"{model} has no config.json.", "Choose another model.") from None


def _files(model: str, commit: str, start: str) -> dict[str, int]:
    """Name -> bytes of the files at the top of the repository, or in the folder `start`; what lies in other folders is
    of other formats."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = list(HfApi().list_repo_tree(model, start.rstrip("/") or None, revision=commit, recursive=False))
    except EntryNotFoundError:
        raise CheckpointError(f"{model} has no folder {start}", "Check the spelling of --subfolder.") from None
    return {entry.path.removeprefix(start): int(entry.size) for entry in tree if isinstance(entry, RepoFile)}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _weights(folder: Path, sizes: dict[str, int]) -> list[str]:
    """The shards that the index names; without one, all safetensors but other formats of the same weights."""
    if named := _indexed(folder):
        return sorted(named & set(sizes))
    all_shards = [name for name in sizes if name.endswith(".safetensors")]
    return [name for name in all_shards if not name.startswith("consolidated")] or all_shards


def _indexed(folder: Path) -> set[str]:
    """Shards that the index names; empty where there is none, or none that can be read."""
    try:
        index = json_input.read(folder / "model.safetensors.index.json")
        return {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _check_room(model: str, folder: Path, sizes: dict[str, int]) -> None:
    missing = sum(size for name, size in sizes.items() if not (folder / name).exists())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DiskSpaceError(
            f"{model} needs {format_size(missing)} more, but the disk of the Hub cache has {format_size(free)} free.",
            f"Free some space, or put the cache elsewhere (export HF_HOME=/other/disk), and {_AGAIN}.",
        )


def _cached(model: str, revision: str | None, start: str) -> Snapshot | None:
    """What was fetched before, where all its weights are there. Files' contents are checked by who opens them."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, f"{start}config.json", revision=revision)
    if not isinstance(config, str) or _incomplete(Path(config).parent):
        return None
    folder = Path(config).parent
    return Snapshot(folder, folder.parents[len(Path(start).parts) - 1].name if start else folder.name)


def _incomplete(folder: Path) -> str | None:
    """What a cached checkpoint lacks; None where it lacks nothing."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            return f"{path.name} has lost its contents (the blob {Path(os.readlink(path)).name})"
    present = {path.name for path in folder.iterdir()}
    missing = sorted(_indexed(folder) - present)
    if missing:
        return f"{missing[0]} is not in the cache"
    return None if any(name.endswith(".safetensors") for name in present) else "its weights are not in the cache"


def _state_of_cache(model: str, start: str) -> tuple[str, str] | None:
    """What of a model is in the Hub client's cache and why that is not enough, and what to do about it; None where
    nothing of it is there. The layout: models--OWNER--NAME with refs/main, which names a commit, and
    snapshots/COMMIT."""
    from huggingface_hub.constants import HF_HUB_CACHE

    entry = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    snapshots = sorted(path for path in entry.glob("snapshots/*") if (path / start / "config.json").exists())
    if not entry.is_dir():
        return None
    ref = entry / "refs" / "main"
    try:
        commit = ref.read_text(encoding="utf-8", errors="replace")
    except OSError:
        commit = ""
    if commit and commit == commit.strip() and entry / "snapshots" / commit in snapshots:
        what = _incomplete(entry / "snapshots" / commit / start)
        return (f"its copy in the cache is incomplete: {what}", "") if what else None
    if not commit:
        what = f"its cache does not say which commit is the newest ({ref} is missing)"
    elif commit != commit.strip():
        what = f"{ref} does not contain a commit alone (it ends in a line end or a space)"
    else:
        what = f"its cache has no snapshot {commit}, which {ref} names"
    return what, f"Give the folder instead: {snapshots[-1] / start}" if snapshots else ""


@contextmanager
def one_sentence(model: str, start: str = "") -> Iterator[None]:
    """Tell what the Hub's client raises as our errors: CheckpointError, HubAccessError, DownloadError or
    DiskSpaceError."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise CheckpointError(
            f"{model} is gated on the Hub.", f"Accept its terms at {ENDPOINT}/{model}, then run: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{model} is neither a local folder nor a model on the Hub that you have access to.",
            "Check the spelling; for a private model run: hf auth login",
        ) from None
    except HfHubHTTPError as error:
        if status_of(error) == 401:
            raise refused_token() from None
        status = error.response.status_code if error.response is not None else "without a status"
        raise DownloadError(f"The Hub answered {status} for {model}.", f"Wait a moment and {_AGAIN}.") from None
    except network_errors() as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(
                f"The disk is full, so {model} could not be downloaded completely.",
                f"Free some space, or put the cache elsewhere (export HF_HOME=/other/disk), and {_AGAIN}.",
            ) from None
        if state := _state_of_cache(model, start):
            raise DownloadError(
                f"{model} could not be downloaded from {ENDPOINT} ({type(error).__name__}), and {state[0]}.",
                state[1] or f"Check the network (and HF_HUB_OFFLINE), and {_AGAIN}.",
            ) from None
        raise DownloadError(
            f"{model} is not a local folder and could not be downloaded from {ENDPOINT} ({type(error).__name__}).",
            f"Check the network (and HF_HUB_OFFLINE), and {_AGAIN}. You can also give a local folder.",
        ) from None


def status_of(error: Exception) -> int:
    """Return the HTTP status behind an error of the Hub client; 0 where there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


@contextmanager
def hub_errors(what: str) -> Any:
    """Turn errors of the network and of an overloaded Hub into one sentence; refusals are passed on. Raises
    UploadError."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise
    except HfHubHTTPError as error:
        status = status_of(error)
        if status != 429 and status < 500:
            raise
        raise UploadError(f"The Hub answered {status} for {what}.", "Wait a moment and run the same again.") from None
    except network_errors() as error:
        raise UploadError(
            f"The Hub at {ENDPOINT} could not be reached ({type(error).__name__}).",
            "Check the network (and HF_HUB_OFFLINE), and run the same again.",
        ) from None


def network_errors() -> tuple[type[Exception], ...]:
    """Return OSError and the base class of what the client's HTTP library raises, whose name has changed between
    versions."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__mro__[1]
    return (OSError, base) if issubclass(base, Exception) else (OSError,)
