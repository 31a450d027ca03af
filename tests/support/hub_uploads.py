"""The side of the little Hub that takes files: who asks, new repositories, LFS objects whole and in parts, commits."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from hub_server import Handler, Repository, User, blob_id, commit_of, is_large


def answer(to: Handler, body: bytes) -> bool:
    """Whether the request was one of these, and has been answered."""
    where, content = to.where, _json(body)
    if where == "/api/whoami-v2":
        _whoami(to)
    elif where == "/api/validate-yaml":
        to.tell({"errors": [], "warnings": []})
    elif where == "/api/repos/create":
        _create(to, content)
    elif where.startswith("/lfs/"):
        _object(to, where.split("/")[2:], body, content)
    elif where.endswith(".git/info/lfs/objects/batch"):
        _writing(to, where.removesuffix(".git/info/lfs/objects/batch").strip("/"), lambda _: _batch(to, content))
    elif where.startswith("/api/models/"):
        name, _, rest = _split(where.removeprefix("/api/models/"))
        verbs = {
            "auth-check": lambda repository: to.tell({}),
            "preupload": lambda repository: _preupload(to, repository, rest, content),
            "commit": lambda repository: _commit(to, name, repository, rest, body),
            "branch": lambda repository: _branch(to, repository, rest, content),
            "discussions": lambda repository: _discussions(to, name, repository),
        }
        what = rest.split("/")[0]
        if what not in verbs:
            return False
        _writing(to, name, verbs[what], reads=what == "discussions" or rest == "auth-check")
    else:
        return False
    return True


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _split(path: str) -> tuple[str, str, str]:
    owner, name, *rest = [*path.split("/", 2), ""]
    return f"{owner}/{name}", "/", rest[0]


def _may_write(user: User, name: str) -> bool:
    namespace = name.split("/")[0]
    if user.role == "fineGrained":
        names = {s["entity"]["name"] for s in user.scoped if "repo.write" in s["permissions"]}
        return bool(names & {namespace, name})
    writing = {org["name"] for org in user.orgs if org["roleInOrg"] in ("admin", "write", "contributor")}
    return user.role == "write" and namespace in {user.name, *writing}


def _writing(to: Handler, name: str, act: Any, reads: bool = False) -> None:
    """Do it where the token may; a pull request may be opened by anyone whose token writes."""
    user, repository = to.user, to.hub.repositories.get(name)
    if repository is None or (repository.private and not user):
        to.refuse(404, "RepoNotFound")
    elif user is None:
        to.refuse(401, "Unauthorized")
    elif reads or _may_write(user, name) or (user.role == "write" and _is_a_request(to, user, repository)):
        act(repository)
    else:
        to.refuse(403, "Forbidden: you need write permission")


def _is_a_request(to: Handler, user: User, repository: Repository) -> bool:
    """What belongs to a pull request: opening it, writing to one's own, and objects, which no branch shows yet."""
    own = [f"/refs/pr/{pr['num']}" for pr in repository.pull_requests if pr["author"] == user.name]
    return "create_pr" in to.query or to.where.endswith("/objects/batch") or any(part in to.where for part in own)


def _whoami(to: Handler) -> None:
    user = to.user
    if user is None:
        return to.refuse(401, "Invalid credentials")
    token: dict[str, Any] = {"displayName": "test", "role": user.role}
    if user.role == "fineGrained":
        token["fineGrained"] = {"global": [], "scoped": user.scoped}
    auth = {"type": "access_token", "accessToken": token}
    return to.tell({"type": "user", "name": user.name, "orgs": user.orgs, "auth": auth})


def _create(to: Handler, content: Any) -> None:
    user = to.user
    if user is None:
        return to.refuse(401, "Unauthorized")
    name = f"{content.get('organization') or user.name}/{content['name']}"
    if not _may_write(user, name):
        return to.refuse(403, "Forbidden")
    if name in to.hub.repositories:
        return to.tell({"error": "You already created this model repo", "url": f"{to.hub.url}/{name}"}, 409)
    private = bool(content.get("private") or content.get("visibility") == "private")
    to.hub.add(name, private=private)
    return to.tell({"url": f"{to.hub.url}/{name}", "name": name})


def _preupload(to: Handler, repository: Repository, rest: str, content: Any) -> None:
    revision = rest.split("/", 1)[1]
    commit = repository.commit_at(revision)
    if commit is None:
        return to.refuse(404, "RevisionNotFound")
    files = repository.commits[commit]
    told = []
    for file in content["files"]:
        path = file["path"]
        held = files.get(path)
        oid = None
        if held is not None:
            oid = hashlib.sha256(held).hexdigest() if is_large(path) else blob_id(held)
        mode = "lfs" if is_large(path) else "regular"
        told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return to.tell({"files": told})


def _batch(to: Handler, content: Any) -> None:
    told, hub = [], to.hub
    for one in content["objects"]:
        oid, size = one["oid"], one["size"]
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in hub.objects:
            verify = {"href": f"{hub.url}/lfs/{oid}/verify", "header": {}}
            upload: dict[str, Any] = {"href": f"{hub.url}/lfs/{oid}/whole", "header": {}}
            if size > hub.part_size:
                count = -(-size // hub.part_size)
                parts = {str(n): f"{hub.url}/lfs/{oid}/part/{n}" for n in range(1, count + 1)}
                upload = {"href": f"{hub.url}/lfs/{oid}/complete", "header": {"chunk_size": str(hub.part_size)} | parts}
            entry["actions"] = {"upload": upload, "verify": verify}
        told.append(entry)
    to.tell({"transfer": "basic", "objects": told})


def _object(to: Handler, rest: list[str], body: bytes, content: Any) -> None:
    hub, (oid, what) = to.hub, rest[:2]
    if what == "verify":
        right = len(hub.objects.get(oid, b"")) == content["size"]
        return to.tell({}) if right else to.refuse(404, "NoSuchObject")
    if what == "part":
        hub.parts[oid, int(rest[2])] = body
        hub.received += len(body)
        return to.send(200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
    if what == "complete":
        body = b"".join(hub.parts[oid, part["partNumber"]] for part in content["parts"])
    else:
        hub.received += len(body)
    if hashlib.sha256(body).hexdigest() != oid:
        return to.refuse(400, "ContentMismatch")
    hub.objects[oid] = body
    return to.tell({})


def _commit(to: Handler, name: str, repository: Repository, rest: str, body: bytes) -> None:
    """All of it or nothing. A pull request gets a branch refs/pr/N of its own."""
    lines = [json.loads(line) for line in body.splitlines()]
    header, revision = lines[0]["value"], rest.split("/", 1)[1]
    parent = repository.commit_at(revision)
    if parent is None:
        return to.refuse(404, "RevisionNotFound")
    if header.get("parentCommit") not in (None, parent):
        return to.refuse(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.commits[parent])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in to.hub.objects:
                return to.refuse(400, f"LFS pointer of {value['path']} points to an object that does not exist")
            files[value["path"]] = to.hub.objects[value["oid"]]
        else:
            return to.refuse(400, f"unexpected {line['key']}")
    repository.branches.setdefault("main", repository.main)
    commit, url = commit_of(files, parent), None
    repository.commits[commit] = files
    if "create_pr" in to.query:
        number = len(repository.pull_requests) + 1
        revision = f"refs/pr/{number}"
        url = f"{to.hub.url}/{name}/discussions/{number}"
        assert to.user
        repository.pull_requests.append({"num": number, "title": header["summary"], "author": to.user.name})
    repository.branches[revision] = commit
    return to.tell({"success": True, "commitOid": commit, "commitUrl": f"{to.hub.url}/{name}/commit/{commit}",
                    "hookOutput": "", "pullRequestUrl": url})  # fmt: skip


def _branch(to: Handler, repository: Repository, rest: str, content: Any) -> None:
    branch = rest.split("/", 1)[1]
    if branch in repository.branches:
        return to.refuse(409, "Reference already exists")
    start = repository.commit_at((content or {}).get("startingPoint", "main"))
    repository.branches.setdefault("main", repository.main)
    repository.branches[branch] = start or repository.main
    return to.tell({})


def _discussions(to: Handler, name: str, repository: Repository) -> None:
    told = [
        {"num": pr["num"], "title": pr["title"], "author": {"name": pr["author"]}, "status": "open",
         "isPullRequest": True, "createdAt": "2026-01-01T00:00:00.000Z", "repo": {"name": name, "type": "model"}}
        for pr in repository.pull_requests
    ]  # fmt: skip
    to.tell({"discussions": told, "count": len(told), "start": 0, "numClosedDiscussions": 0})
