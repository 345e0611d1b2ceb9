"""A model hub on this machine, with the endpoints, headers and redirects of the real one, that can be made to fail."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

GATED = (401, "GatedRepo")


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorized: bool


@dataclass
class LocalHub:
    """Repositories by name and commit, the last one being the newest; `files` are those of a plain web server."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)  # part of a path -> status, error code
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    after: dict[str, tuple[int, Callable[[], None]]] = field(default_factory=dict)  # path -> bytes to send, what then
    commit: str | None = None  # claimed in place of the one asked for
    etag: str | None = None  # in place of a large file's own

    def __enter__(self) -> LocalHub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def cdn(self) -> str:
        """Another host, where the hub sends who wants a large file."""
        return f"http://localhost:{self.server.server_port}/cdn"

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """A new commit; returns its name."""
        commits = self.repositories.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit

    def bodies(self) -> list[Request]:
        """The requests for a file's bytes that were not redirected."""
        return [r for r in self.requests if r.method == "GET" and r.path.startswith(("/cdn/", "/models/"))]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: LocalHub, *args: object) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = self.headers.get("Range")
        self.hub.requests.append(Request(self.command, path, asked, "Authorization" in self.headers))
        for part, (status, code) in self.hub.failures.items():
            if part in path:
                return self.answer(status, {"X-Error-Code": code})
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            return self.describe(*api.groups())
        if file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            return self.resolve(*file.groups())
        stored = {
            hashlib.sha256(b).hexdigest(): b
            for c in self.hub.repositories.values()
            for f in c.values()
            for b in f.values()
        }
        name = path.rpartition("/")[2]
        content = stored.get(name) if path.startswith("/cdn/") else self.hub.files.get(name)
        return self.answer(404) if content is None else self.send(content)

    def snapshot(self, repository: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        commits = self.hub.repositories.get(repository)
        if commits is None:
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        revision = list(commits)[-1] if revision in (None, "main") else revision
        if revision not in commits:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        return revision, commits[revision]

    def describe(self, repository: str, revision: str | None) -> None:
        if found := self.snapshot(repository, revision):
            commit, files = found
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": git(content), **lfs(name, content)}
                for name, content in files.items()
            ]
            self.send(json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())

    def resolve(self, repository: str, revision: str, name: str) -> None:
        if not (found := self.snapshot(repository, revision)):
            return None
        commit, files = found
        named = {"X-Repo-Commit": self.hub.commit or commit}
        if name not in files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", **named})
        digest = hashlib.sha256(files[name]).hexdigest()
        if not lfs(name, files[name]):
            return self.send(files[name], {"ETag": f'"{git(files[name])}"', **named})
        linked = {"X-Linked-Etag": f'"{self.hub.etag or digest}"', "X-Linked-Size": str(len(files[name]))}
        return self.answer(302, {"Location": f"{self.hub.cdn}/{digest}", **linked, **named})

    def send(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        headers, asked = {"Accept-Ranges": "bytes", **(headers or {})}, self.headers.get("Range")
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self.send_response(206 if start else 200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            cut, then = self.hub.after.pop(self.path, (None, lambda: None))
            if self.hub.cuts and self.path.startswith(("/cdn/", "/models/")):
                cut = self.hub.cuts.pop(0)
            then()
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()


def git(content: bytes) -> str:
    """What git calls a file; the ETag of one that is in git itself."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs(name: str, content: bytes) -> dict:
    if not name.endswith((".safetensors", ".bin")):
        return {}
    return {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
