"""Saving over earlier saves, in distributed runs, and to the Hub."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi, close_session, constants
from transformers.utils import hub as transformers_hub

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.model import saving

from ..conftest import TINY_LABELS, TINY_SIZE, randomize_lora
from ..loopback_hub import LoopbackHub

ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"}
WHOLE = {"model.safetensors", "config.json", "preprocessor_config.json"}


@torch.no_grad()
def logits(model):
    return model(torch.rand(1, 3, TINY_SIZE, TINY_SIZE, generator=torch.Generator().manual_seed(0))).logits


def load(directory, **options):
    return SamedForSemanticSegmentation.from_pretrained(directory, **options)


def names(directory):
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def copied(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter, tmp_path / "copy")


@pytest.fixture
def other(tiny_adapter):
    """A merged model that no adapter's directory gives."""
    model = load(tiny_adapter).merge_and_unload()
    with torch.no_grad():
        model.sam.mask_decoder.upscale_conv1.weight.mul_(-1)
    return model


def test_a_merged_model_replaces_the_adapter_of_its_directory(copied, other):
    (copied / "notes.txt").write_text("mine")
    other.save_pretrained(copied)
    assert names(copied) == WHOLE | {"notes.txt"}
    assert (logits(load(copied)) - logits(other)).abs().max() < 1e-6


def test_an_adapter_of_the_older_layout_goes_too(copied, other):
    (copied / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copied / name).rename(copied / "adapter" / name)
    other.save_pretrained(copied)
    assert names(copied) == WHOLE


def test_shards_go_with_the_next_save(other, tmp_path):
    other.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    other.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "model.safetensors.index.json").exists()
    other.save_pretrained(tmp_path)
    assert names(tmp_path) == WHOLE | {"model.fp16.safetensors"}


def test_an_adapter_replaces_a_whole_model(tiny_adapter, other, tmp_path):
    other.save_pretrained(tmp_path, max_shard_size="50KB")
    model = load(tiny_adapter)
    model.save_pretrained(tmp_path, max_shard_size="1KB", variant="fp16")  # an adapter is one file
    assert names(tmp_path) == ADAPTER
    assert torch.equal(logits(load(tmp_path)), logits(model))


def test_a_failure_restores_the_adapter(copied, other, monkeypatch):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    monkeypatch.setattr(saving, "obsolete_files", lambda *_: ["adapter_config.json", "config.json/impossible"])
    with pytest.raises(OSError, match="config"):
        other.save_pretrained(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_an_adapter_is_not_saved_over_its_base(tiny_sam, tmp_path):
    base = shutil.copytree(tiny_sam, tmp_path / "base")
    model = load(base, num_labels=2)
    model.add_adapter(samed_lora_config(rank=2))
    with pytest.raises(ValueError, match="where the adapter's base model is"):
        model.save_pretrained(base)
    assert names(base) == names(tiny_sam)


def test_other_processes_write_nothing(tiny_adapter, tiny_model, tmp_path):
    load(tiny_adapter).save_pretrained(tmp_path / "adapter", is_main_process=False)
    tiny_model.save_pretrained(tmp_path / "whole", False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_given_state_dict_is_saved(tiny_adapter, tmp_path):
    model = load(tiny_adapter)
    state = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load(tmp_path).get_adapter_state_dict()
    assert all(torch.equal(saved[key], tensor + 1) for key, tensor in model.get_adapter_state_dict().items())


def test_an_adapter_on_a_merged_model_brings_its_base(tiny_adapter, tmp_path):
    model = load(tiny_adapter).merge_and_unload()
    model.add_adapter(samed_lora_config(rank=2))
    randomize_lora(model)
    model.save_pretrained(tmp_path / "second")
    content = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == "./base_model"
    (tmp_path / "second").rename(tmp_path / "moved")
    loaded = load(tmp_path / "moved")
    assert loaded.config.id2label == TINY_LABELS
    assert torch.equal(logits(loaded), logits(model))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transformers_hub, "_hf_api", None, raising=False)  # one made before knows another Hub
    close_session()  # or a proxy
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
    close_session()


def test_a_pushed_merged_model_replaces_an_adapter_in_the_repository(hub, tiny_adapter, other, tmp_path):
    hub.add("me/discs", tiny_adapter)
    processor = SamedImageProcessor(TINY_SIZE, (-1, 1))
    other.save_pretrained(
        tmp_path / "m", image_processor=processor, push_to_hub=True, repo_id="me/discs", token="hf_test"
    )
    assert WHOLE | {"README.md"} == set(hub.files("me/discs")) - {".gitattributes"}
    assert json.loads(hub.files("me/discs")["preprocessor_config.json"])["intensity_window"] == [-1, 1]
    assert other.image_processor.intensity_window != [-1, 1]
    with pytest.raises(ValueError, match="exists and is public"):
        other.push_to_hub("me/discs", token="hf_test", private=True)


@pytest.mark.parametrize("adapter", [True, False])
def test_options_of_a_push(adapter, tiny_adapter, other, tmp_path, monkeypatch):
    calls = []
    options = {"commit_message": "Second try", "create_pr": True, "revision": "test", "private": True, "token": "t"}
    monkeypatch.setattr(saving, "push_adapter", lambda directory, repo_id, **given: calls.append((repo_id, given)))
    monkeypatch.setattr(saving, "create_repository", lambda api, repo_id, private: calls.append(private))
    for name in ("create_repo", "list_repo_files"):
        monkeypatch.setattr(HfApi, name, lambda self, repo_id, **given: calls.append(given) or [])
    monkeypatch.setattr(
        saving.PushToHubMixin,
        "push_to_hub",
        lambda self, repo_id, private=None, **given: self._upload_modified_files(tmp_path, repo_id, {}, **given),
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **given: calls.append((given["repo_id"], given)))
    model = load(tiny_adapter) if adapter else other
    model.save_pretrained(tmp_path / "discs", push_to_hub=True, **options)
    repo_id, given = calls[-1]
    assert repo_id == "discs"
    expected = options if adapter else {key: options[key] for key in ("commit_message", "create_pr", "revision")}
    assert expected.items() <= given.items()
