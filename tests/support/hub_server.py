"""A small Hub on loopback that speaks its API as huggingface_hub and llama.cpp use it, for downloads and uploads.

Faults are set by the test: `cut` closes a download's connection, `faults` answer a request with an error, or close the
connection before or after it did its work; `on_request` is called at each.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".gguf", ".png")  # kept as LFS objects, as the Hub's .gitattributes say
GIT_ATTRIBUTES = {".gitattributes": "".join(f"*{suffix} filter=lfs\n" for suffix in LARGE).encode()}


class Hollow(bytes):
    """A large file of which only the beginning takes memory; zeros follow."""

    n_bytes: int

    @classmethod
    def of(cls, beginning: bytes, n_bytes: int) -> Hollow:
        file = cls(beginning)
        file.n_bytes = n_bytes
        return file

    def __len__(self) -> int:
        return self.n_bytes

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.n_bytes)
        return super().__getitem__(slice(start, stop)).ljust(stop - start, b"\0")


@dataclass
class Repository:
    """Files by path at each commit, and commits by branch; `main` is the newest unless a branch says otherwise.

    `refuse` answers everything with a status and error code.
    """

    commits: dict[str, dict[str, bytes]]
    refuse: tuple[int, str] | None = None
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    pull_requests: list[dict] = field(default_factory=list)

    @property
    def main(self) -> str:
        return self.branches.get("main") or list(self.commits)[-1]

    def commit_at(self, revision: str) -> str | None:
        commit = self.main if revision == "main" else self.branches.get(revision, revision)
        return commit if commit in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.main]


@dataclass
class Fault:
    """What happens to the next `times` requests whose "VERB path" contains `where`.

    `status`: that answer instead of the work. "cut": the connection is closed before it. "lost": after it, so that only
    the answer is missing.
    """

    where: str
    status: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class User:
    """Who a token belongs to. `role`: read, write or fineGrained, then `scoped` as /api/whoami-v2 tells it."""

    name: str
    role: str = "write"
    orgs: list[dict] = field(default_factory=list)
    scoped: list[dict] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds and what it saw. `cut`: path -> bytes after which a download is closed, once."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""
    users: dict[str, User] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda line: None
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    part_size: int = 2**62  # objects larger than this are uploaded in parts
    received: int = 0  # bytes of objects and parts
    sent: dict[str, int] = field(default_factory=dict)  # path -> bytes of it that were downloaded
    ranges: bool = True  # whether requests for a part of a file are answered with it
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, name: str, folder: Path | None = None, **facts) -> Repository:
        """A repository with the files of a folder, or what a new one holds."""
        files = dict(GIT_ATTRIBUTES)
        if folder:
            files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = Repository({commit_of(files): files}, **facts)
        self.repositories[name] = repository
        return repository

    def fetched(self) -> list[str]:
        """Names of files whose bytes were asked for."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for verb, path, _ in self.requests if _is_fetch(verb, path)]

    def lines(self) -> list[str]:
        return [f"{verb} {path}" for verb, path, _ in self.requests]


def _is_fetch(verb: str, path: str) -> bool:
    return verb == "GET" and "/resolve/" in path


def commit_of(files: dict[str, bytes], parent: str = "") -> str:
    digest = hashlib.sha1(parent.encode())
    for name, content in sorted(files.items()):
        digest.update(name.encode() + hashlib.sha1(content).digest())
    return digest.hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request: faults first, then repositories' downloads, then what hub_uploads answers."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.where, self.query = unquote(parts.path), parse_qs(parts.query)
        line = f"{self.command} {self.where}"
        with self.hub.lock:
            self.hub.requests.append((self.command, self.where, self.headers.get("Range")))
            fault = next((one for one in self.hub.faults if one.times and one.where in line), None)
            if fault:
                fault.times -= 1
        self.hub.on_request(line)
        if fault and fault.status == "cut":
            self._hang_up()
            return
        body = self._body()
        self.mute = bool(fault and fault.status == "lost")
        if fault and isinstance(fault.status, int):
            self.refuse(fault.status, "Fault", fault.headers)
            return
        with self.hub.lock:
            self._dispatch(body)

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _dispatch(self, body: bytes) -> None:
        import hub_uploads

        if hub_uploads.answer(self, body):
            return None
        name = next((n for n in self.hub.repositories if f"/{n}/" in self.where + "/"), None)
        if name is None:
            return self.refuse(404, "RepoNotFound")
        repository = self.hub.repositories[name]
        if repository.refuse:
            return self.refuse(*repository.refuse)
        if repository.private and not self.user:
            return self.refuse(401, "RepoNotFound")
        rest = self.where.split(f"/{name}", 1)[1].strip("/").split("/")
        if self.where.startswith("/api/models/"):
            return self._api(name, repository, rest)
        if rest and rest[0] == "resolve":
            revision, path = rest[1], "/".join(rest[2:])
            return self._file(repository, revision, path)
        return self.refuse(404, "EntryNotFound")

    @property
    def user(self) -> User | None:
        return self.hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": code} | (headers or {})
        self.send(status, json.dumps({"error": code}).encode(), told)

    def tell(self, content: object, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _api(self, name: str, repository: Repository, rest: list[str]) -> None:
        if rest == ["refs"]:
            branches = {"main": repository.main} | repository.branches
            told = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in branches.items()]
            return self.tell({"branches": told, "converts": [], "tags": []})
        revision, below = self._revision(rest)
        commit = repository.commit_at(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if rest and rest[0] == "tree":
            return self.tell(self._tree(repository, files, below))
        siblings = [{"rfilename": path} for path in files]
        about = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings}
        return self.tell(about | {"private": repository.private, "tags": [], "downloads": 0, "likes": 0})

    @staticmethod
    def _revision(rest: list[str]) -> tuple[str, str]:
        """The revision in a path, and what follows it."""
        n = 4 if rest[1:2] == ["refs"] else 2
        return "/".join(rest[1:n]) or "main", "".join(f"{part}/" for part in rest[n:])

    def _tree(self, repository: Repository, files: dict[str, bytes], below: str) -> list[dict]:
        inside = {path: content for path, content in files.items() if path.startswith(below)}
        folders = {below + path[len(below) :].split("/")[0] for path in inside if "/" in path[len(below) :]}
        if "true" not in self.query.get("recursive", [""])[0].lower():
            inside = {path: content for path, content in inside.items() if "/" not in path[len(below) :]}
        entries = [self._entry(repository, path, content) for path, content in inside.items()]
        return entries + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]

    def _entry(self, repository: Repository, path: str, content: bytes) -> dict:
        size = repository.claimed_sizes.get(path, len(content))
        entry = {"type": "file", "path": path, "oid": blob_id(content), "size": size}
        if is_large(path):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 100}
        return entry

    def _file(self, repository: Repository, revision: str, path: str) -> None:
        commit = repository.commit_at(revision)
        content = repository.commits[commit].get(path) if commit else None
        if commit is None or content is None:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest() if is_large(path) else blob_id(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        status, asked = 200, self.headers.get("Range")
        if asked and self.hub.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            end = int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            status, content = 206, content[int(first) : end]
        cut = self.hub.cut.pop(path, None) if self.command == "GET" else None
        if self.command == "GET":
            self.hub.sent[path] = self.hub.sent.get(path, 0) + len(content)
        return self.send(status, content, headers, cut=cut)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        if self.mute:
            self._hang_up()
            return
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed in the middle are what some tests are about."""


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
