"""A Hub on loopback for the tests of this package."""

import json
import shutil

import pytest
from huggingface_hub import close_session, constants

from ..loopback_hub import LoopbackHub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub of this process's client, whose cache is empty."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    close_session()  # one made before may know a proxy
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
    close_session()


@pytest.fixture
def published(hub, tiny_adapter, tiny_sam, tmp_path):
    """Returns a function that adds a repository in the layout "root" or, with `old`, "adapter", and its base model."""

    def add(name, old=False):
        commit = hub.add("lab/sam", tiny_sam)
        directory = tmp_path / name.replace("/", "-")
        shutil.copytree(tiny_adapter, directory)
        return lay_out(hub, name, directory, commit, old)

    return add


def lay_out(hub, name, directory, base_commit, old=False):
    """Add a directory's adapter as a repository, in today's layout or the one of before; returns the commit."""
    from samed_hf.hub import lay_out_repository

    if not old:
        target = directory.with_name(f"{directory.name}-staged")
        return hub.add(name, lay_out_repository(directory, target, repo_id=name, base=("lab/sam", base_commit)))
    (directory / "adapter").mkdir(exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (directory / file).rename(directory / "adapter" / file)
    config = directory / "adapter" / "adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": "lab/sam", "revision": base_commit}
    config.write_text(json.dumps(named))
    return hub.add(name, directory)
