"""Uploads all files or none: large files first, then one commit of everything, then a check of what arrived.

What the Hub already has is not sent again, so running it again after any interruption continues where it stopped:
objects that arrived stay, and a commit whose answer was lost is recognised by its contents.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luq_gguf.core.errors import HubAccessError, UploadError
from luq_gguf.hf.download import network_errors, status_of
from luq_gguf.hf.hub_client import LONGEST_WAIT, limit_waits, retry_after, words
from luq_gguf.publishing.access import Standing, Target

ATTEMPTS = 5
_AGAIN = "Run the same command again: files that have arrived are not sent twice."


@dataclass(frozen=True)
class File:
    """A local file, its name in the repository, and its contents by size and sha256."""

    path: Path
    name: str
    n_bytes: int
    sha256: str


Replaceable = Mapping[str, frozenset[str]]
"""Name in the repository -> the contents that may be replaced there: sha256 of large files, git's names of others."""


@dataclass(frozen=True)
class Publication:
    """Describes where the files are now. `sent` are the files of the commit; it is empty if all were there already."""

    url: str
    commit: str
    sent: tuple[File, ...]
    pull_request: str | None = None


def publish(
    target: Target,
    standing: Standing,
    files: Sequence[File],
    message: str,
    info: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    replaceable: Replaceable | None = None,
) -> Publication:
    """Send what is not there yet in one commit, and compare the repository with `files` afterwards. A file named in
    `replaceable` takes the place of those contents alone.

    A Hub that is overloaded or drops the connection is asked again up to five times, after as long as it says. Raises
    HubAccessError if it refuses, and UploadError if it does not answer or has other contents in the end.
    """
    expected: tuple[type[Exception], ...] = (*network_errors(), RuntimeError, ValueError)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            limit_waits()
            return _publish_once(target, standing, files, message, info, replaceable or {})
        except (HubAccessError, UploadError):
            raise
        except expected as error:
            wait = _seconds_to_wait(_cause(error), target, attempt)
            info(f"{_what(_cause(error))}; trying again in {wait:.0f} s ({attempt} of {ATTEMPTS - 1})")
            sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def differing(
    target: Target, revision: str, files: Sequence[File], replaceable: Replaceable | None = None
) -> list[File]:
    """Return the files that the repository does not have at this revision, or has with other contents.

    Raises UploadError naming one whose contents there are not among the `replaceable` ones.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(target.repo, revision=revision, recursive=True)
    entries = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    missing = [file for file in files if not _same(entries.get(file.name), file)]
    for file in missing:
        entry, allowed = entries.get(file.name), (replaceable or {}).get(file.name)
        if entry is not None and allowed is not None and _contents(entry) not in allowed:
            raise UploadError(
                f"{target.repo} has {file.name} with contents that this run folder did not send; nothing was changed.",
                "Another file may need it. Delete it on the Hub if this one should replace it, or use another --repo."
                if file.name.endswith(".gguf")
                else "Run the same command again: somebody may have changed it just now.",
            )
    return missing


def blob_id(path: Path) -> str:
    """Return what git calls this file's contents; of small files only."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _contents(entry: Any) -> str:
    return str(entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _same(entry: Any, file: File) -> bool:
    if entry is None or entry.size != file.n_bytes:
        return False
    return bool(entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == blob_id(file.path))


def _publish_once(
    target: Target,
    standing: Standing,
    files: Sequence[File],
    message: str,
    info: Callable[[str], None],
    replaceable: Replaceable,
) -> Publication:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    revision = _prepare(api, target, standing, message)
    opening = target.create_pr and revision is None
    where = revision or "main"
    head = str(api.repo_info(target.repo, revision=where).sha)
    missing = differing(target, head, files, replaceable)
    if not missing:
        return Publication(_address(api, target, where), head, (), _request_address(api, target, where))
    adds = [CommitOperationAdd(file.name, str(file.path)) for file in missing]
    how: dict[str, Any] = {"revision": None if opening else where, "create_pr": opening or None}
    for add in sorted(adds, key=lambda add: -add.upload_info.size):
        # One at a time: then it is sent by this thread, and Ctrl-C ends it at once.
        api.preupload_lfs_files(target.repo, [add], free_memory=False, **how)
    commit = api.create_commit(target.repo, adds, commit_message=message, parent_commit=head, **how)
    left = differing(target, commit.oid, files)
    if left:
        raise UploadError(
            f"{target.repo} does not match what was sent: {', '.join(file.name for file in left)}.",
            "Run the same command again; if this persists, check whether a file was changed during the upload.",
        )
    info(f"{len(missing)} files are in {target.repo}, and every size and sha256 matches the local file")
    return Publication(_address(api, target, where), commit.oid, tuple(missing), commit.pr_url or None)


def _prepare(api: Any, target: Target, standing: Standing, message: str) -> str | None:
    """Create repository and branch if they are missing; return the branch to write to, None for a new pull request.

    A pull request of ours with the same title that is still open is continued.
    """
    if not standing.exists:
        api.create_repo(target.repo, private=target.private or None, exist_ok=True)
    if target.revision:
        api.create_branch(target.repo, branch=target.revision, exist_ok=True)
    if not target.create_pr:
        return target.revision or "main"
    filters = {"author": standing.user, "discussion_type": "pull_request", "discussion_status": "open"}
    ours = [
        discussion.num for discussion in api.get_repo_discussions(target.repo, **filters) if discussion.title == message
    ]
    return f"refs/pr/{max(ours)}" if ours else None


def _address(api: Any, target: Target, revision: str) -> str:
    return f"{api.endpoint}/{target.repo}" + ("" if revision == "main" else f"/tree/{revision}")


def _request_address(api: Any, target: Target, revision: str) -> str | None:
    number = revision.removeprefix("refs/pr/")
    return f"{api.endpoint}/{target.repo}/discussions/{number}" if number != revision else None


def _cause(error: Exception) -> Exception:
    """The client's own error behind the RuntimeError that it wraps around those of its threads."""
    inner = error.__cause__
    return inner if isinstance(error, RuntimeError) and isinstance(inner, Exception) else error


def _what(error: Exception) -> str:
    status = status_of(error)
    return f"the Hub answered {status}" if status else f"the connection was lost ({type(error).__name__})"


def _seconds_to_wait(error: Exception, target: Target, attempt: int) -> float:
    """Raises HubAccessError or UploadError where waiting does not help."""
    status = status_of(error)
    if status in (401, 403):
        reason = words(error)
        raise HubAccessError(
            f"The Hub refused to write to {target.repo} ({status}): {reason or 'your access token lacks permission'}.",
            "Nothing was committed. Check what the Hub says above, and run the same command again."
            if reason
            else "Nothing was committed. Log in with an access token that has write permission: hf auth login",
        ) from None
    # 404: made a moment ago; 409: another commit is under way; 412: somebody committed in between.
    if status not in (0, 404, 408, 409, 412, 429) and status < 500:
        raise UploadError(
            f"The Hub refused the upload to {target.repo} ({status}: {words(error) or type(error).__name__}).", _AGAIN
        )
    if status == 0 and not isinstance(error, network_errors()):
        raise UploadError(f"The upload failed in huggingface_hub: {error}.", _AGAIN)
    requested = retry_after(error)
    if attempt == ATTEMPTS or requested > LONGEST_WAIT:
        request_note = f" and asks to wait {requested:.0f} s" if requested else ""
        raise UploadError(
            f"{_what(error).capitalize()}{request_note}; the upload to {target.repo} is not finished.", _AGAIN
        )
    return requested or float(2 ** (attempt - 1))
