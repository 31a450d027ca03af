"""A small Hub on loopback that speaks the download API as huggingface_hub uses it. Faults are set by the test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by path at each commit; `main` is the newest. `refuse` answers everything with a status and error code."""

    commits: dict[str, dict[str, bytes]]
    refuse: tuple[int, str] | None = None
    claimed_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.commits)[-1]


@dataclass
class Hub:
    """What the server holds and what it saw. `cut`: path -> bytes after which the connection is closed, once."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path) -> Repository:
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = Repository({commit_of(files): files})
        self.repositories[name] = repository
        return repository

    def fetched(self) -> list[str]:
        """Names of files whose bytes were asked for."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for verb, path, _ in self.requests if _is_fetch(verb, path)]


def _is_fetch(verb: str, path: str) -> bool:
    return verb == "GET" and "/resolve/" in path


def commit_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + hashlib.sha1(content).digest())
    return digest.hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            name = next((n for n in hub.repositories if f"/{n}/" in path + "/"), None)
            if name is None:
                return self._refuse(404, "RepoNotFound")
            repository = hub.repositories[name]
            if repository.refuse:
                return self._refuse(*repository.refuse)
            rest = path.split(f"/{name}", 1)[1].strip("/").split("/")
            if path.startswith("/api/models/"):
                return self._api(name, repository, rest)
            if rest and rest[0] == "resolve":
                return self._file(repository, rest[1], "/".join(rest[2:]))
            return self._refuse(404, "EntryNotFound")

        def _refuse(self, status: int, code: str) -> None:
            body = json.dumps({"error": code}).encode()
            self._send(status, body, {"X-Error-Code": code, "X-Error-Message": code})

        def _api(self, name: str, repository: Repository, rest: list[str]) -> None:
            revision = rest[1] if len(rest) > 1 else "main"
            commit = repository.main if revision == "main" else revision
            if commit not in repository.commits:
                return self._refuse(404, "RevisionNotFound")
            files = repository.commits[commit]
            if rest and rest[0] == "tree":
                entries = [self._entry(repository, path, content) for path, content in files.items()]
                below = "/".join(rest[2:])
                top = {e["path"].split("/")[0] for e in entries if "/" in e["path"]}
                if "recursive=true" not in self.path.lower() and not below:
                    entries = [e for e in entries if "/" not in e["path"]]
                    entries += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in top]
                return self._send(200, json.dumps(entries).encode())
            siblings = [{"rfilename": path} for path in files]
            about = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False}
            return self._send(200, json.dumps(about | {"tags": [], "downloads": 0, "likes": 0}).encode())

        def _entry(self, repository: Repository, path: str, content: bytes) -> dict:
            size = repository.claimed_sizes.get(path, len(content))
            entry = {"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest(), "size": size}
            if path.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 100}
            return entry

        def _file(self, repository: Repository, revision: str, path: str) -> None:
            commit = repository.main if revision == "main" else revision
            content = repository.commits.get(commit, {}).get(path)
            if content is None:
                return self._refuse(404, "EntryNotFound")
            digest = hashlib.sha256 if path.endswith((".safetensors", ".bin")) else hashlib.sha1
            headers = {"X-Repo-Commit": commit, "ETag": f'"{digest(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            status, asked = 200, self.headers.get("Range")
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                end = int(last) + 1 if last else len(content)
                headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
                status, content = 206, content[int(first) : end]
            return self._send(status, content, headers, cut=hub.cut.pop(path, None) if self.command == "GET" else None)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
