"""Every way of loading a published adapter, in the layout of today and of before, and what a failing Hub leads to."""

import subprocess
import sys

import pytest
import torch

from samed_hf import SamedForSemanticSegmentation

from .conftest import lay_out

WAYS = """
import os, sys
import torch
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
