"""A small Hugging Face Hub on loopback, in memory, for an unpatched huggingface_hub client in another process.

Spoken are model repositories: their creation, commits with LFS files, branches, tags, info, trees and downloads, and the
errors the Hub sends. Not spoken is Xet: a client that has `hf_xet` doesn't fall back to LFS by itself, so
`FakeHub.environment` turns Xet off. Pull requests, datasets and Spaces are answered with an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

REFUSALS = {
    "create": (401, "Invalid username or password."),
    "preupload": (403, "Forbidden: you don't have the write permission."),
    "lfs": (403, "Private repository storage limit reached, please upgrade your plan."),
    "commit": (500, "Internal Error - We're working hard to fix this as soon as possible!"),
}


class HubError(Exception):
    """An error answer: status, `X-Error-Code` where the Hub has one, message, and further headers or body."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}, **body: Any):
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps such a file in LFS."""
    return size > 10_000 or path.endswith((".safetensors", ".png"))


def git_hash(content: bytes) -> str:
    """The name git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file's content and where it's kept."""

    content: bytes
    lfs: bool

    @cached_property
    def etag(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.lfs else git_hash(self.content)

    def row(self, path: str) -> dict[str, Any]:
        """The file in a tree."""
        size = len(self.content)
        if not self.lfs:
            return {"type": "file", "path": path, "size": size, "oid": self.etag}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.etag}\nsize {size}\n".encode()
        lfs = {"oid": self.etag, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": size, "oid": git_hash(pointer), "lfs": lfs}


@dataclass(frozen=True)
class Commit:
    """A state of the repository; commits are never changed."""

    sha: str
    title: str
    parent: Commit | None
    files: dict[str, Blob]
    date: str

    def rows(self) -> dict[str, dict[str, Any]]:
        """All files and folders by path."""
        parents = {str(folder) for path in self.files for folder in PurePosixPath(path).parents} - {"."}
        folders = {
            path: {"type": "directory", "path": path, "size": 0, "oid": git_hash(f"{self.sha}{path}".encode())}
            for path in parents
        }
        return dict(sorted((folders | {path: blob.row(path) for path, blob in self.files.items()}).items()))


@dataclass
class Repository:
    """Commits by sha; branches and tags point to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag or sha."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def commit(self, files: dict[str, Blob], title: str, branch: str = "main") -> Commit:
        """A new commit on a branch, holding just these files."""
        parent = self.commits.get(self.branches.get(branch, ""))
        tree = sorted((path, blob.etag) for path, blob in files.items())
        sha = hashlib.sha1(repr((len(self.commits), parent and parent.sha, title, tree)).encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[sha] = Commit(sha, title, parent, files, date)
        self.branches[branch] = sha
        return self.commits[sha]


class FakeHub(ThreadingHTTPServer):
    """The Hub; a context manager that serves until it's left.

    Attributes:
        tokens: user names by token; a user owns the namespace of that name.
        repositories: by "user/name".
        objects: LFS files by sha256.
        refuse: the step answered with an error, a key of `REFUSALS`, or None.
        requests: method and path, without query, of everything asked.
    """

    daemon_threads = True

    def __init__(self, tokens: Mapping[str, str] | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = dict(tokens or {"hf_test": "me"})
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: str | None = None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> FakeHub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def environment(self, home: Path, token: str | None = "hf_test") -> dict[str, str]:
        """This process's environment, changed so that a child takes this for the Hub and caches in `home`."""
        dropped = re.compile(r"HF_|HUGGING|TRANSFORMERS_|.*_PROXY$", re.IGNORECASE)
        kept = {key: value for key, value in os.environ.items() if not dropped.match(key)}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        kept |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        return kept | ({"HF_TOKEN": token} if token else {})

    def add(self, repo: str, folder: Path, private: bool = False, gated: bool = False) -> str:
        """Commit a folder to a new or known repository; returns the sha. Nobody is let into a gated one."""
        contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        files = {path: Blob(content, is_lfs(path, len(content))) for path, content in contents.items()}
        self.objects |= {blob.etag: blob.content for blob in files.values() if blob.lfs}
        repository = self.repositories.setdefault(repo, Repository())
        repository.private, repository.gated = private, gated
        return repository.commit(files, "Add files").sha

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Content by path."""
        return {path: blob.content for path, blob in self.repositories[repo].resolve(revision).files.items()}

    def handle_error(self, *_: object) -> None:
        """Clients may hang up; other errors were answered."""


_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def _route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a method of `_Handler` answer; {name}, {revision} and {path} of the pattern become its arguments."""
    groups = {"name": "[^/]+(?:/[^/]+)?", "revision": "[^/]+", "oid": "[0-9a-f]{64}", "path": ".+"}
    regex = re.sub(r"{(\w+)}", lambda match: f"(?P<{match[1]}>{groups[match[1]]})", pattern)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _ROUTES.append((method, re.compile(regex), function))
        return function

    return register
