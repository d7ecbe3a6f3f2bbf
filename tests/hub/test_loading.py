"""Every way of loading a published adapter, in the layout of today and of before, and what a failing Hub leads to."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForSemanticSegmentation, pipeline

from samed_hf import SamedConfig, SamedForSemanticSegmentation, SamedImageProcessor, samed_lora_config
from samed_hf.hub import lay_out_repository
from samed_hf.inference.segmenter import load_model
from samed_hf.training import SamedTrainingArguments
from samed_hf.training.setup import set_up_run

from ..conftest import TINY_LABELS, TINY_SIZE
from .conftest import lay_out

WAYS = """
import os, sys
import torch
from huggingface_hub import constants
import samed_hf
from huggingface_hub import constants, snapshot_download
from peft import AutoPeftModel, PeftModel
from samed_hf import SamedConfig, SamedForSemanticSegmentation
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, pipeline

name, pinned, layout = sys.argv[1:4]
pixels, expected, at_pinned = torch.load(sys.argv[4])
subfolder = {"subfolder": "adapter"} if layout == "old" else {}

@torch.no_grad()
def check(way, model, expected=expected):
    difference = (model.eval()(pixels).logits.float() - expected).abs().max().item()
    assert difference == 0.0, (way, difference)
    print(way)

def ways(**revision):
    logits = at_pinned if revision else expected
    check("samed", SamedForSemanticSegmentation.from_pretrained(name, **revision), logits)
    check("auto", AutoModel.from_pretrained(name, **revision), logits)
    check("auto segmentation", AutoModelForSemanticSegmentation.from_pretrained(name, **revision), logits)
    segment = pipeline("image-segmentation", model=name, **revision)
    check("pipeline", segment.model, logits)
    assert segment.image_processor.input_size == 48
    config = SamedConfig.from_pretrained(name, **revision)
    base = SamedForSemanticSegmentation.from_pretrained("lab/sam", config=config)
    if not (subfolder and constants.HF_HUB_OFFLINE):  # PEFT then looks for adapter/adapter/adapter_model.safetensors
        check("peft", PeftModel.from_pretrained(base, name, **revision, **subfolder), logits)
    if layout == "root":
        model = AutoPeftModel.from_pretrained(name, import_allowlist=["samed_hf"], **revision)
        check("auto peft", model, logits)
        with model.disable_adapter(), torch.no_grad():
            assert (model(pixels).logits - logits).abs().max() > 0.01
        assert list(model.peft_config) == ["default"]
        merged = model.merge_and_unload()
        with torch.no_grad():
            assert (merged(pixels).logits - logits).abs().max() < 1e-4
    model = SamedForSemanticSegmentation.from_pretrained("lab/sam", image_size=64, num_labels=5)
    model.load_adapter(name, "published", **revision)
    check("load_adapter", model, logits)
    assert AutoConfig.from_pretrained(name, **revision).id2label == {0: "background", 1: "disc", 2: "bar"}
    assert AutoImageProcessor.from_pretrained(name, **revision).image_size == 64
    directory = snapshot_download(name, **revision)
    check("snapshot", SamedForSemanticSegmentation.from_pretrained(directory), logits)
    check("snapshot, auto", AutoModelForSemanticSegmentation.from_pretrained(directory), logits)
    check("snapshot, pipeline", pipeline("image-segmentation", model=directory).model, logits)

ways()
ways(revision=pinned)
"""


def predict(model, pixels):
    with torch.no_grad():
        return model.eval()(pixels).logits


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["root", "old"])
def test_ten_ways_of_loading_give_the_same_logits(hub, published, tiny_adapter, tmp_path, layout):
    old = layout == "old"
    first = published("me/discs", old)
    hub.repositories["me/discs"].refs["v1"] = first
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    at_first = predict(model, pixels)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    model.save_pretrained(tmp_path / "second")
    lay_out(hub, "me/discs", tmp_path / "second", hub.repositories["lab/sam"].refs["main"], old)
    expected = predict(model, pixels)
    assert not torch.equal(expected, at_first)
    # The base model moves on; the adapters name the commit that they were trained on.
    hub.repositories["lab/sam"].commit(hub.files("lab/sam") | {"README.md": b"moved"})
    torch.save((pixels, expected, at_first), tmp_path / "logits.pt")
    (tmp_path / "ways.py").write_text(WAYS)
    environment = hub.environment(tmp_path / "home")
    command = [sys.executable, str(tmp_path / "ways.py"), "me/discs", "v1", layout, str(tmp_path / "logits.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ways = done.stdout.splitlines()
    assert len(ways) == (20 if layout == "root" else 18)
    hub.requests.clear()
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    again = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == [way for way in ways if layout == "root" or way != "peft"]
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [{"targets": "k,o,mlp"}, {"encoder": "frozen"}, {"encoder": "full"}], ids=str)
def test_adapters_of_other_modules_load_in_the_same_ways(hub, tiny_sam, tmp_path, recipe):
    model = SamedForSemanticSegmentation.from_pretrained(tiny_sam, image_size=TINY_SIZE, id2label=TINY_LABELS)
    model.add_adapter(samed_lora_config(2, **recipe))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.requires_grad_(False)
    model.save_pretrained(tmp_path / "run", image_processor=SamedImageProcessor(TINY_SIZE, input_size=48))
    commit = lay_out(hub, "me/recipe", tmp_path / "run", hub.add("lab/sam", tiny_sam))
    hub.repositories["me/recipe"].refs["v1"] = commit
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.save((pixels, *[predict(model, pixels)] * 2), tmp_path / "logits.pt")
    (tmp_path / "ways.py").write_text(WAYS)
    command = [sys.executable, str(tmp_path / "ways.py"), "me/recipe", "v1", "root", str(tmp_path / "logits.pt")]
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20


def failure_of(name):
    """The message of the connection's error, or `None` if the model and its image processor are loaded."""
    try:
        model = SamedForSemanticSegmentation.from_pretrained(name)
    except ConnectionError as error:
        return str(error)
    return "no image processor" if model.image_processor is None else None


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["cut", "cut body", "500"])
def test_a_hub_that_fails_after_some_files_is_told_as_that(hub, published, failure, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    published("me/discs")
    hub.failure = failure
    told = []
    for sent in range(7):
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        hub.fail_after = sent
        told.append(failure_of("me/discs"))
    assert told.pop() is None
    files = ["adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"]
    assert sorted(tuple(text.split("'")[:2]) for text in told) == sorted(
        [*((f"{file} of ", "me/discs") for file in files)]
        + [(f"{file} of ", "lab/sam") for file in ("config.json", "model.safetensors")]
    )
    assert not any("\n" in text or hub.url not in text for text in told)
    hub.fail_after = 0
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(ConnectionError, match=r"config\.json of 'me/discs'"):
        SamedConfig.from_pretrained("me/discs")
    hub.fail_after = None
    assert SamedForSemanticSegmentation.from_pretrained("me/discs").image_processor.input_size == 48
    assert SamedForSemanticSegmentation.from_pretrained("lab/sam").image_processor is None


@pytest.mark.parametrize("old", [False, True])
def test_every_file_is_read_at_one_commit(hub, published, old):
    commit = published("me/discs", old)
    base = hub.repositories["lab/sam"].refs["main"]
    hub.repositories["lab/sam"].commit({})
    hub.requests.clear()
    SamedForSemanticSegmentation.from_pretrained("me/discs")
    read = {(path.split("/resolve/")[0], path.split("/")[4]) for _, path in hub.requests if "/resolve/" in path}
    assert read == {("/me/discs", commit), ("/lab/sam", base)}


def test_a_gated_base_names_the_token(hub, published, tmp_path):
    published("me/discs")
    hub.repositories["lab/sam"].gated = True
    with pytest.raises(FileNotFoundError, match=r"'lab/sam'.* gated.*`hf auth login`.*token="):
        set_up_run(SamedTrainingArguments(model_name_or_path="lab/sam", output_dir=str(tmp_path / "run")))
    with pytest.raises(FileNotFoundError, match=rf"'lab/sam'.* gated.*{hub.url}/lab/sam.*`hf auth login`.*token="):
        SamedForSemanticSegmentation.from_pretrained("me/discs")


def test_what_is_saved_of_a_published_adapter_names_its_base(hub, published, tmp_path):
    published("me/discs")
    model = SamedForSemanticSegmentation.from_pretrained("me/discs")
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    base = hub.repositories["lab/sam"].refs["main"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("lab/sam", base)
    assert config["auto_mapping"] is None
    assert not {"base_model_name_or_path", "base_model_revision"} & set(
        json.loads((tmp_path / "saved" / "config.json").read_text())
    )
    again = SamedForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(predict(model, pixels), predict(again, pixels))


def test_an_adapter_without_a_base_takes_one_where_the_advice_says_so(hub, tiny_adapter, tiny_sam, tmp_path):
    directory = lay_out_repository(tiny_adapter, tmp_path / "staged", repo_id="me/discs")
    hub.add("me/discs", directory)
    with pytest.raises(ValueError, match="base_model_name_or_path"):
        SamedForSemanticSegmentation.from_pretrained("me/discs")
    expected = predict(SamedForSemanticSegmentation.from_pretrained(tiny_adapter), pixels := torch.randn(1, 3, 64, 64))
    given = {"base_model_name_or_path": str(tiny_sam)}
    for model in (
        SamedForSemanticSegmentation.from_pretrained("me/discs", **given),
        AutoModelForSemanticSegmentation.from_pretrained(directory, **given),
        pipeline("image-segmentation", model=str(directory), model_kwargs=dict(given)).model,
        load_model("me/discs", **given),
    ):
        assert torch.equal(predict(model, pixels), expected)
