"""A Hugging Face Hub on loopback: enough of its protocol for an unpatched huggingface_hub, repositories in memory.

It implements creating repositories, commits with LFS uploads, branches, tags, pull requests, model info, trees and
resolve, and the errors of missing, private and gated repositories, of a cut connection and of a broken server. Large
files are uploaded by LFS: Xet's storage is not imitated, so clients need `HF_HUB_DISABLE_XET=1`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

OWNER_OF_TOKEN = {"hf_test": "me"}


@dataclass
class Repository:
    """A repository's commits, newest last: name and files of each; branches and tags point to them."""

    private: bool = False
    gated: bool | str = False  # "auto" gives access to whoever has a token
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit on a branch with just these files."""
        name = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        self.refs[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit's own name."""
        return revision if revision in self.commits else self.refs.get(revision)


class LoopbackHub(ThreadingHTTPServer):
    """The server; a context manager.

    Attributes:
        repositories: by "user/name"; Spaces by "spaces/user/name".
        refuse: kind of request that is answered with an error: None, "create", "lfs", "commit" or "commit
            user/name".
        fail_after: files that are sent before each further one is answered by `failure`; `None` sends all.
        failure: "cut" closes the connection, "cut body" does so within the content, "500" is a server's error.
        uploaded: LFS objects sent, by their sha256; each only once.
        requests: method and path of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.refuse: str | None = None
        self.fail_after: int | None = None
        self.failure = "cut"
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> LoopbackHub:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def environment(self, home: Path, token: str | None = "hf_test") -> dict[str, str]:
        """The environment of a process that uses this server as the Hub, with its cache in `home`."""
        dropped = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        kept = {key: value for key, value in kept.items() if not key.lower().endswith("_proxy")}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
        return kept | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Path and content of a repository's files."""
        repository = self.repositories[name]
        return repository.commits[repository.resolve(revision)]

    def add(self, name: str, directory: Path, **options: bool) -> str:
        """A repository with a directory's files; returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**options))
        paths = [path for path in directory.rglob("*") if path.is_file()]
        return repository.commit({path.relative_to(directory).as_posix(): path.read_bytes() for path in paths})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def _respond(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path.replace("%2F", "%252F"))
        path = path.replace("/resolve/refs/pr/", "/resolve/refs%2Fpr%2F").replace("/api/spaces/", "/api/models/spaces/")
        self.server.requests.append((self.command, path))
        for pattern, methods, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                groups = {key: value.replace("%2F", "/") for key, value in match.groupdict().items()}
                return action(self, body, **groups)
        return self.answer(404, {"error": f"no route for {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _respond  # noqa: N815 - http.server's names

    def answer(self, status: int, content: Any = None, **headers: Any) -> None:
        """Send JSON, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Content-Length", len(body))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str, message: str) -> None:
        """An error as the Hub sends it."""
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def log_message(self, *_: Any) -> None:
        """Log no requests."""

    @property
    def user(self) -> str | None:
        """The owner of the request's token."""
        return OWNER_OF_TOKEN.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repository(self, name: str) -> Repository | None:
        """The repository if this user may see it; otherwise the error is sent."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and self.user is None):
            self.fail(404 if self.user else 401, "RepoNotFound", "Repository not found")
            return None
        if repository.gated and "/resolve/" in self.path and not (repository.gated == "auto" and self.user):
            self.fail(403, "GatedRepo", f"Access to model {name} is restricted.")
            return None
        return repository


def _whoami(handler: _Handler, body: bytes) -> None:
    if handler.user is None:
        return handler.answer(401, {"error": "Invalid username or password."})
    return handler.answer(200, {"type": "user", "name": handler.user, "orgs": []})


def _create(handler: _Handler, body: bytes) -> None:
    hub, payload = handler.server, json.loads(body)
    if handler.user is None or hub.refuse == "create":
        return handler.answer(401, {"error": "Invalid username or password."})
    name = f"{payload.get('organization') or handler.user}/{payload['name']}"
    if payload.get("type") == "space":
        assert payload["sdk"] == "static"
        name = f"spaces/{name}"
    exists = name in hub.repositories
    private = payload.get("private") is True or payload.get("visibility") == "private"
    if not exists:
        hub.repositories[name] = Repository(private=private)
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if payload.get("type") == "space":
            files |= {"README.md": b"---\nsdk: static\n---\n", "index.html": b"My static Space", "style.css": b""}
        hub.repositories[name].commit(files)
    return handler.answer(409 if exists else 200, {"url": f"{hub.url}/{name}", "name": name})


def _preupload(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    def mode(path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".png", ".onnx", ".wasm")) else "regular"

    files = [{"path": file["path"], "uploadMode": mode(file["path"])} for file in json.loads(body)["files"]]
    handler.answer(200, {"files": [file | {"shouldIgnore": False} for file in files]})


def _lfs_batch(handler: _Handler, body: bytes, name: str) -> None:
    hub = handler.server
    objects = json.loads(body)["objects"]
    for item in objects:
        if item["oid"] not in hub.uploaded:
            item["actions"] = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}
    handler.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")


def _lfs_put(handler: _Handler, body: bytes, oid: str) -> None:
    if handler.server.refuse == "lfs":
        return handler.answer(403, {"error": "Storage limit reached"})
    assert hashlib.sha256(body).hexdigest() == oid
    handler.server.uploaded[oid] = body
    return handler.answer(200)


def _commit(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    hub = handler.server
    if hub.refuse in ("commit", f"commit {name}"):
        return handler.answer(403, {"error": "Storage limit reached"})
    repository = hub.repositories[name]
    files = dict(repository.commits.get(repository.resolve(revision) or "", {}))
    answer = {}
    if "create_pr=1" in urlsplit(handler.path).query:
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
        revision, answer = f"refs/pr/{number}", {"pullRequestUrl": f"{hub.url}/{name}/discussions/{number}"}
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.uploaded[value["oid"]]
        elif line["key"] == "deletedFile":
            files.pop(value["path"], None)
    oid = repository.commit(files, revision)
    return handler.answer(200, answer | {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid})


def _branch(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    repository = handler.server.repositories[name]
    exists = revision in repository.refs
    repository.refs.setdefault(revision, repository.refs["main"])
    handler.answer(409 if exists else 200)


def _tag(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    repository = handler.server.repositories[name]
    repository.refs[json.loads(body)["tag"]] = repository.resolve(revision)
    handler.answer(200)


def _info(handler: _Handler, body: bytes, name: str, revision: str = "main") -> None:
    repository = handler.repository(name)
    if repository is None:
        return None
    commit = repository.resolve(revision)
    if commit is None and repository.commits:
        return handler.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = repository.commits.get(commit, {})
    readme = files.get("README.md", b"").decode()
    data = yaml.safe_load(readme.split("---")[1]) if readme.startswith("---") else {}
    info = {"id": name, "modelId": name, "sha": commit, "private": repository.private, "gated": repository.gated}
    info |= {
        "siblings": [{"rfilename": path} for path in sorted(files)],
        "tags": data.get("tags", []),
        "cardData": data,
    }
    return handler.answer(200, info | {key: data[key] for key in ("pipeline_tag", "library_name") if key in data})


def _commits(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    about = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
    handler.answer(200, [about | {"id": commit} for commit in handler.server.repositories[name].commits])


def _tree(handler: _Handler, body: bytes, name: str, revision: str) -> None:
    repository = handler.repository(name)
    if repository is None:
        return None
    commit = repository.resolve(revision)
    if commit is None:
        return handler.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = repository.commits[commit].items()
    rows = [{"type": "file", "path": path, "size": len(data), "oid": _etag(path, data)} for path, data in files]
    return handler.answer(200, rows)


def _resolve(handler: _Handler, body: bytes, name: str, revision: str, path: str) -> None:
    repository = handler.repository(name)
    if repository is None:
        return None
    commit = repository.resolve(revision)
    if commit is None:
        return handler.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    data = repository.commits[commit].get(path)
    if data is None:
        message = "Entry not found"
        error = {"X_Error_Code": "EntryNotFound", "X_Error_Message": message, "X_Repo_Commit": commit}
        return handler.answer(404, {"error": message}, **error)
    hub = handler.server
    failure = None
    if hub.fail_after is not None:
        failure = hub.failure if hub.fail_after == 0 else None
        hub.fail_after -= handler.command == "GET" and hub.fail_after > 0
    if failure == "500":
        return handler.answer(500, {"error": "Internal Server Error"})
    if failure == "cut" or (failure and handler.command == "GET"):
        handler.close_connection = True
        if failure == "cut":
            return None
        handler.answer(200, data[: len(data) // 2], Content_Length=len(data))
        return None
    return handler.answer(
        200,
        data,
        Content_Type="application/octet-stream",
        ETag=f'"{_etag(path, data)}"',
        X_Repo_Commit=commit,
        X_Linked_Size=len(data),
        Access_Control_Allow_Origin="*",
    )


def _etag(path: str, data: bytes) -> str:
    return (hashlib.sha256 if path.endswith((".safetensors", ".png", ".onnx", ".wasm")) else hashlib.sha1)(
        data
    ).hexdigest()


_NAME = r"(?P<name>(?:spaces/)?[^/]+/[^/]+)"
_REV = r"(?P<revision>[^/]+)"
_READ = ("GET", "HEAD")
_ROUTES = [
    (r"/api/whoami-v2", _READ, _whoami),
    (r"/api/validate-yaml", ("POST",), lambda handler, body: handler.answer(200, {"errors": [], "warnings": []})),
    (r"/api/repos/create", ("POST",), _create),
    (rf"/api/models/{_NAME}/preupload/{_REV}", ("POST",), _preupload),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _lfs_batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", ("PUT",), _lfs_put),
    (rf"/api/models/{_NAME}/commit/{_REV}", ("POST",), _commit),
    (rf"/api/models/{_NAME}/branch/{_REV}", ("POST",), _branch),
    (rf"/api/models/{_NAME}/tag/{_REV}", ("POST",), _tag),
    (rf"/api/(?:models|datasets)/{_NAME}", _READ, _info),
    (rf"/api/models/{_NAME}/revision/{_REV}", _READ, _info),
    (rf"/api/models/{_NAME}/commits/{_REV}", _READ, _commits),
    (rf"/api/models/{_NAME}/tree/{_REV}", _READ, _tree),
    (rf"/{_NAME}/resolve/{_REV}/(?P<path>.+)", _READ, _resolve),
]
