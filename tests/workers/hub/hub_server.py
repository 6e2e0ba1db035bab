"""A loopback HTTP server that speaks the part of the Hub's API that huggingface_hub uses.

Large files are served from a second origin, as the Hub's CDN does, after a redirect that carries
their digest and size. `faults` makes chosen requests fail in chosen ways; `requests` records all.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.workers.hub.repositories import Repository, StoredFile
from tests.workers.hub.uploads import Uploads

LFS_JSON = "application/vnd.git-lfs+json"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD target` matches `pattern`.

    `status` answers with it (and `headers`); `drop_after` cuts the connection after that many bytes
    of the body; `corrupt` flips the body's last byte; `resize` claims and sends that many bytes
    more or fewer; `ignore_range` answers 200 with everything.
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    corrupt: bool = False
    resize: int = 0
    ignore_range: bool = False


@dataclass(frozen=True)
class Request:
    """A request as it came, and how many bytes of body were sent back."""

    method: str
    target: str
    authorization: str | None
    range: str | None
    origin: str
    sent: int


class HubServer:
    """The Hub and its CDN on two loopback ports; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads = Uploads()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self._servers = [self._serve("hub"), self._serve("cdn")]

    def _serve(self, origin: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "origin": origin})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        return server

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        """Where large files are redirected to."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def repository(self, name: str, **options: Any) -> Repository:
        """Create a repository."""
        self.repositories[name] = Repository(name, **options)
        return self.repositories[name]

    def take_fault(self, line: str) -> Fault | None:
        """The fault for this request, used up."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    @property
    def bytes_sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.sent for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[HubServer]
    origin: ClassVar[str]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keep the test's output clean."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._dispatch()

    def do_GET(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def do_PUT(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fault = self.hub.take_fault(f"{self.origin} {self.command} {self.path}")
        if self.fault is not None and self.fault.status:
            self._answer(self.fault.status, b"", self.fault.headers)
            return
        path = unquote(urlsplit(self.path).path)
        for method, pattern, name in _ROUTES[self.origin]:
            match = re.fullmatch(pattern, path)
            if match is not None and self.command in method.split():
                handler: Callable[..., None] = getattr(self, name)
                handler(*match.groups(), body=body) if body else handler(*match.groups())
                return
        self._answer(404, b"no such route: " + self.path.encode())

    # Reading

    def model_info(self, name: str, revision: str | None = None) -> None:
        found = self._find(name, revision or "main")
        if found is None:
            return
        repository, commit = found
        siblings = [
            stored.describe(path, key="rfilename")
            for path, stored in sorted(repository.commits[commit].items())
        ]
        self._json({"id": name, "sha": commit, "private": False, "siblings": siblings, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        files = sorted(found[0].commits[found[1]].items())
        page = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        chunk = [stored.describe(path, key="path") for path, stored in files[page : page + 3]]
        link = {}
        if page + 3 < len(files):
            base = f"{self.hub.endpoint}{urlsplit(self.path).path}"
            link = {"Link": f'<{base}?cursor={page + 3}&recursive=True>; rel="next"'}
        self._json(chunk, headers=link)

    def resolve(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        stored = repository.commits[commit].get(path)
        common = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if stored is None:
            self._answer(404, b"", common | {"X-Error-Code": "EntryNotFound"})
        elif stored.large:
            linked = {
                "X-Linked-Etag": f'"{stored.sha256}"',
                "X-Linked-Size": str(len(stored.content)),
                "Location": f"{self.hub.cdn}/objects/{stored.sha256}",
            }
            self._answer(302, b"", common | linked)
        else:
            self._content(stored, common | {"ETag": f'"{stored.etag}"'})

    def cdn_object(self, sha256: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for stored in files.values():
                    if stored.sha256 == sha256:
                        self._content(stored, {"ETag": f'"{sha256}"'})
                        return
        self._answer(404, b"")

    def _content(self, stored: StoredFile, headers: dict[str, str]) -> None:
        fault = self.fault or Fault("")
        content = stored.content
        if fault.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault.resize:
            content = content[: fault.resize] if fault.resize < 0 else content + b"x" * fault.resize
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None or fault.ignore_range:
            self._answer(200, content, headers)
            return
        start = int(wanted[1])
        stop = min(int(wanted[2]) + 1 if wanted[2] else len(content), len(content))
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self._answer(206, content[start:stop], headers | span)

    # Writing

    def create(self, *, body: bytes) -> None:
        wanted = json.loads(body)
        prefix = "datasets/" if wanted.get("type") == "dataset" else ""
        name = f"{prefix}{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            self._json({"url": f"{self.hub.endpoint}/{name}", "id": name}, status=409)
            return
        self.hub.repository(name, token=self._token()).put({".gitattributes": b"*.safetensors"})
        self.hub.repositories[name].messages.append(wanted.get("visibility", "public"))
        self._json({"url": f"{self.hub.endpoint}/{name}", "id": name})

    def validate_card(self, *, body: bytes) -> None:
        head = json.loads(body)["content"].startswith("---\n")
        errors = [] if head else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, status=200 if head else 400)

    def preupload(self, name: str, revision: str, *, body: bytes) -> None:
        if self._find(name, revision) is not None:
            self._json(self.hub.uploads.preupload(json.loads(body)))

    def lfs_batch(self, name: str, *, body: bytes) -> None:
        if self._find(name, "main") is not None:
            plan = self.hub.uploads.batch(json.loads(body), self.hub.cdn, self.hub.endpoint)
            self._json(plan, kind=LFS_JSON)

    def lfs_put(self, sha256: str, *, body: bytes) -> None:
        self._answer(*self.hub.uploads.store(sha256, body))

    def lfs_verify(self, *, body: bytes) -> None:
        self._answer(*self.hub.uploads.verify(json.loads(body)))

    def commit(self, name: str, revision: str, *, body: bytes) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        summary, files = self.hub.uploads.read_commit(body)
        commit = found[0].commit(files, revision)
        found[0].messages.append(summary)
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._json({"commitUrl": url, "commitOid": commit, "success": True})

    # Plumbing

    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return value.removeprefix("Bearer ") if value else None

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif repository.gated:
            self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif repository.token is not None and self._token() != repository.token:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._answer(401, b"", message if self._token() else {"X-Error-Code": "RepoNotFound"})
        elif (commit := repository.resolve(revision)) is None:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository, commit
        return None

    def _json(
        self,
        value: object,
        *,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
        status: int = 200,
    ) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": kind, **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        cut = self.fault.drop_after if self.fault is not None else None
        sent = body if cut is None else body[:cut]
        record = Request(
            method=self.command,
            target=self.path,
            authorization=self.headers.get("Authorization"),
            range=self.headers.get("Range"),
            origin=self.origin,
            sent=0 if self.command == "HEAD" else len(sent),
        )
        with self.hub.lock:
            self.hub.requests.append(record)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


_NAME = r"([^/]+/[^/]+)"
_DATASET = r"(datasets/[^/]+/[^/]+)"
_ROUTES: dict[str, list[tuple[str, str, str]]] = {
    "hub": [
        ("GET", rf"/api/models/{_NAME}", "model_info"),
        ("GET", rf"/api/models/{_NAME}/revision/(.+)", "model_info"),
        ("GET", rf"/api/{_DATASET}", "model_info"),
        ("GET", rf"/api/{_DATASET}/revision/(.+)", "model_info"),
        ("GET HEAD", rf"/{_DATASET}/resolve/([^/]+)/(.+)", "resolve"),
        ("POST", rf"/api/{_DATASET}/preupload/([^/]+)", "preupload"),
        ("POST", rf"/api/{_DATASET}/commit/([^/]+)", "commit"),
        ("GET", rf"/api/models/{_NAME}/tree/([^/]+)", "tree"),
        ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", rf"/api/models/{_NAME}/preupload/([^/]+)", "preupload"),
        ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("POST", rf"/api/models/{_NAME}/commit/([^/]+)", "commit"),
    ],
    "cdn": [
        ("GET HEAD", r"/objects/([0-9a-f]{64})", "cdn_object"),
        ("PUT", r"/upload/([0-9a-f]{64})", "lfs_put"),
    ],
}
