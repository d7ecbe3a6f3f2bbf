"""Uploads to a small Hub of the test's own on this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import close_session, constants

from samed_hf.hub import push_adapter

ADAPTER = {
    "README.md": "# card",
    "adapter_config.json": '{"r": 4}',
    "adapter_model.safetensors": "weights",
    "config.json": "{}",
    "metrics.csv": "case,label",
    "metrics.json": '{"mean": 0.5}',
    "overlay.png": "picture",
    "preprocessor_config.json": "{}",
    "training_curve.png": "curve",
}
OF_THE_RUN = [
    "training_log.csv",
    "training_settings.json",
    "checkpoint-2/adapter_config.json",
    "checkpoint-2/adapter_model.safetensors",
    "checkpoint-2/optimizer.bin",
    "phantom/train_npz/case0001_slice000.npz",
    "base_model/config.json",
    "base_model/README.md",
    "runs/events.out",
]


class Handler(BaseHTTPRequestHandler):
    """What of the Hub's interface an upload of small files asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self._create(hub, json.loads(body))
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer(200, {"files": modes})
        elif "/commit/" in self.path:
            self._commit(hub, [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(200, {})

    def do_GET(self):
        self._answer(404, {"error": "Repository not found"})

    def _create(self, hub, payload):
        if hub.refuses == "create":
            return self._answer(401, {"error": "Invalid username or password."})
        hub.created.append(payload)
        return self._answer(200, {"url": f"{hub.url}/{payload.get('organization') or 'me'}/{payload['name']}"})

    def _commit(self, hub, lines):
        if hub.refuses == "commit":
            return self._answer(403, {"error": "Storage limit reached"})
        files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        repo = self.path.split("/commit/")[0].removeprefix("/api/models/")
        hub.repos[repo] = {path: base64.b64decode(content).decode() for path, content in files.items()}
        return self._answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/1", "commitOid": "1"})

    def _answer(self, status, content):
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repos, server.created, server.tokens, server.refuses = {}, [], set(), None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()  # one made before may know a proxy
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def adapter(tmp_path):
    """What a training leaves: the adapter, and much that is only the run's."""
    folder = tmp_path / "adapter"
    for name, content in (ADAPTER | dict.fromkeys(OF_THE_RUN, "of the run")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def contents(folder):
    return {str(path): path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_adapter_goes_up_and_the_run_stays(hub, adapter):
    before = contents(adapter)
    assert push_adapter(adapter, "ward/discs", token="hf_test") == f"{hub.url}/ward/discs"
    assert hub.repos == {"ward/discs": ADAPTER}
    assert hub.tokens == {"Bearer hf_test"}
    assert contents(adapter) == before


def test_an_adapter_alone_is_enough(hub, adapter):
    for name in set(ADAPTER) - {"adapter_config.json", "adapter_model.safetensors"}:
        (adapter / name).unlink()
    push_adapter(str(adapter), "ward/discs", token="hf_test")
    assert set(hub.repos["ward/discs"]) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_bare_name_goes_to_ones_own_namespace(hub, adapter):
    assert push_adapter(adapter, "discs", token="hf_test") == f"{hub.url}/me/discs"
    assert list(hub.repos) == ["me/discs"]


def is_private(payload):
    # The name of the field changed from one huggingface_hub to the next.
    return payload.get("visibility") == "private" or payload.get("private") is True


def test_a_repository_is_private_where_that_is_asked_for(hub, adapter):
    push_adapter(adapter, "ward/open", token="hf_test")
    push_adapter(adapter, "ward/closed", private=True, token="hf_test")
    assert [(payload["name"], is_private(payload)) for payload in hub.created] == [("open", False), ("closed", True)]


@pytest.mark.parametrize(("refuses", "reason"), [("create", "401"), ("commit", "403")])
def test_a_refused_upload_leaves_the_folder_and_can_be_tried_again(hub, adapter, refuses, reason):
    before = contents(adapter)
    hub.refuses = refuses
    with pytest.raises(ValueError, match=f"{reason}.*folder is untouched") as caught:
        push_adapter(adapter, "ward/discs", token="hf_test")
    assert f"The upload of {adapter} to 'ward/discs' failed" in str(caught.value)
    assert f"`samed-hf push {adapter} --repo_id ward/discs`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.repos == {}
    assert contents(adapter) == before
    hub.refuses = None
    push_adapter(adapter, "ward/discs", token="hf_test")
    assert hub.repos == {"ward/discs": ADAPTER}


def test_a_hub_that_cannot_be_reached(hub, adapter, monkeypatch):
    before = contents(adapter)
    # A port that is bound and not listened to refuses every connection.
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as closed:
        closed.server_bind()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.server_port}")
        with pytest.raises(ValueError, match=r"to 'ward/discs' failed \(.+\)\. The folder is untouched; try again"):
            push_adapter(adapter, "ward/discs", token="hf_test")
    assert contents(adapter) == before


def test_offline_mode_is_named(hub, adapter, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"offline mode is enabled.*try again with `samed-hf push"):
        push_adapter(adapter, "ward/discs", token="hf_test")
    assert hub.created == []


def test_a_name_the_hub_does_not_know_how_to_read(hub, adapter):
    for name in ("a/b/c", "two words", "ward/"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            push_adapter(adapter, name, token="hf_test")
    assert hub.created == []


@pytest.mark.parametrize("missing", [["adapter_config.json"], ["adapter_config.json", "adapter_model.safetensors"]])
def test_a_folder_without_adapter_is_refused_before_anything_is_made(hub, adapter, missing):
    for name in missing:
        (adapter / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"adapter is no adapter: {', '.join(missing)} missing"):
        push_adapter(adapter, "ward/discs", token="hf_test")
    with pytest.raises(FileNotFoundError, match="nowhere is no adapter"):
        push_adapter(adapter / "nowhere", "ward/discs", token="hf_test")
    assert hub.created == []
