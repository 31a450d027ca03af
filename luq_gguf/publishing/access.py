"""Checks whether a repository may be written to, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from luq_gguf.core.errors import HubAccessError
from luq_gguf.hf.download import hub_errors, status_of
from luq_gguf.hf.hub_client import limit_waits
from luq_gguf.hf.hub_settings import checked_settings, refused_token

T = TypeVar("T")
_WRITING_ROLES = ("admin", "write", "contributor")
_TOKENS = "Create an access token with write permission at {}/settings/tokens, then run: hf auth login"


@dataclass(frozen=True)
class Target:
    """Describes where to publish. `create`: create the repository if it does not exist, `private` or not;
    `overwrite_card`: replace what somebody has written into the generated part of its card."""

    repo: str
    revision: str | None = None
    create: bool = False
    private: bool = False
    create_pr: bool = False
    overwrite_card: bool = False


@dataclass(frozen=True)
class Standing:
    """Describes what is on the Hub: the user that the access token belongs to, whether the repository exists, and the
    commit that the branch points to (None if the branch does not exist yet)."""

    user: str
    exists: bool
    head: str | None


def check_offline(target: Target) -> str | None:
    """Check a target's name alone. Returns why nothing else can be asked, None where there is an access token to ask
    with. Raises HubAccessError."""
    from huggingface_hub import get_token

    _namespace(target)
    return None if get_token() else "you are not logged in to the Hub"


@checked_settings()
def check(target: Target) -> Standing:
    """Check the name, the access token, its permission and the repository; nothing is sent.

    Raises HubAccessError naming what is missing, and UploadError if the Hub does not answer.
    """
    from huggingface_hub import HfApi

    namespace = _namespace(target)
    limit_waits()
    api = HfApi()
    user = _user(api)
    if not target.create_pr:
        _check_permission(user, namespace, target.repo)
    elif _token(user).get("role") == "read":
        raise _cannot_write(user, target.repo)
    with hub_errors(target.repo):
        repository = _repository(api, target)
    if repository is None and not target.create:
        raise HubAccessError(
            f"{target.repo} does not exist on the Hub, or your access token cannot see it.",
            "Check the spelling, or add --create to create it (--create --private for a private repository).",
        )
    if repository is None and target.create_pr:
        raise HubAccessError(
            f"{target.repo} does not exist, so a pull request cannot be opened against it.",
            "Leave --create-pr out.",
        )
    if repository is not None and target.private and not repository.private:
        raise HubAccessError(
            f"{target.repo} exists and is public; --private only applies to new repositories. Nothing was sent.",
            "Leave --private out to publish there, or make it private on the Hub first.",
        )
    if repository is not None and not target.create_pr:
        _check_write(api, target, str(user["name"]))
    return Standing(str(user["name"]), repository is not None, _head(api, target) if repository is not None else None)


def _namespace(target: Target) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(target.repo)
        namespace, name = target.repo.split("/")
    except (HFValidationError, ValueError):
        raise HubAccessError(
            f"{target.repo!r} is not a valid repository name.",
            "Write USER/NAME or ORGANIZATION/NAME; letters, digits, '-', '_' and '.' are allowed.",
        ) from None
    if not namespace or not name:
        raise HubAccessError(f"{target.repo!r} is not a valid repository name.", "Write USER/NAME.")
    if target.create_pr and target.revision:
        raise HubAccessError("--create-pr always opens a pull request against main.", "Leave --revision out.")
    if target.revision and target.revision.startswith("refs/"):
        raise HubAccessError(f"--revision {target.revision} is not a branch.", "Give the name of a branch.")
    return namespace


def _user(api: Any) -> dict[str, Any]:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        with hub_errors("your account"):
            return dict(api.whoami())
    except LocalTokenNotFoundError:
        raise HubAccessError("You are not logged in to the Hub.", _TOKENS.format(ENDPOINT)) from None
    except HfHubHTTPError as error:
        if status_of(error) in (401, 403):
            raise refused_token(" with write permission") from None
        raise


def _token(user: Mapping[str, Any]) -> Mapping[str, Any]:
    token: Mapping[str, Any] = user.get("auth", {}).get("accessToken") or {}
    return token


def _cannot_write(user: Mapping[str, Any], repo: str, more: str = "") -> HubAccessError:
    from huggingface_hub.constants import ENDPOINT

    name = _token(user).get("displayName")
    called = f" ({name})" if name else ""
    return HubAccessError(
        f"Your access token{called} lacks permission to write to {repo}{more}; nothing was sent.",
        _TOKENS.format(ENDPOINT),
    )


def _check_permission(user: Mapping[str, Any], namespace: str, repo: str) -> None:
    """Check what the token says about itself. What it does not say is left to the Hub's own answer."""
    token, name = _token(user), str(user["name"])
    if token.get("role") == "read":
        raise _cannot_write(user, repo, ": it is a read token")
    if token.get("role") == "fineGrained":
        scoped = (token.get("fineGrained") or {}).get("scoped") or []
        allowed = {s["entity"].get("name") for s in scoped if "repo.write" in s.get("permissions", ())}
        if not {namespace, repo} & allowed:
            raise _cannot_write(user, repo, ": it does not have repo.write there")
    orgs = {org["name"]: org.get("roleInOrg") for org in user.get("orgs") or ()}
    if namespace != name and namespace not in orgs:
        raise HubAccessError(
            f"You are logged in to the Hub as {name}, who is not a member of {namespace}; nothing was sent.",
            f"Use --repo {name}/{repo.split('/')[1]}, or add --create-pr to propose the files to {repo}.",
        )
    if namespace != name and orgs[namespace] not in (*_WRITING_ROLES, None):
        raise HubAccessError(
            f"Your role in {namespace} is {orgs[namespace]!r}, which does not permit writing; nothing was sent.",
            "Ask the organization's administrators for the role 'contributor' or 'write', or add --create-pr.",
        )


def _repository(api: Any, target: Target) -> Any:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(target.repo)
    except RepositoryNotFoundError:
        return None


def _check_write(api: Any, target: Target, user: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with hub_errors(target.repo):
            api.auth_check(target.repo, write=True)
    except TypeError:  # an older client cannot ask; then the first request that writes is refused
        return
    except HfHubHTTPError as error:
        if status_of(error) == 404:  # a Hub that cannot be asked this way, for the repository has just been seen
            return
        if status_of(error) not in (401, 403):
            raise
        raise HubAccessError(
            f"The Hub says that {user}'s access token lacks permission to write to {target.repo}; nothing was sent.",
            "Ask the repository's owner for the role 'write', or add --create-pr to propose the files.",
        ) from None


def _head(api: Any, target: Target) -> str | None:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        with hub_errors(target.repo):
            return str(api.repo_info(target.repo, revision=target.revision).sha)
    except RevisionNotFoundError:
        return None
