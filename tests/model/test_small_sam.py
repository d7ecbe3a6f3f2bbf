"""The packaged base model, by its name and from its directory."""

import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForSemanticSegmentation, SamModel, SamProcessor, pipeline

from samed_hf import SamedConfig, SamedForSemanticSegmentation, samed_lora_config
from samed_hf.cli import main
from samed_hf.hub.repository import lay_out_repository
from samed_hf.pretraining import SyntheticImages, make_small_sam, measure_iou, resize_input
from samed_hf.utils.packaged import SMALL_SAM, SMALL_SAM_VERSION

DIRECTORY = Path(str(resources.files("samed_hf") / "small"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter for nine labels on the packaged base."""
    torch.manual_seed(0)
    model = SamedForSemanticSegmentation.from_pretrained(SMALL_SAM, image_size=64, num_labels=9)
    model.add_adapter(samed_lora_config(4))
    directory = tmp_path_factory.mktemp("small") / "adapter"
    model.save_pretrained(directory)
    return directory


def test_its_card_names_version_and_hash():
    file, card = DIRECTORY / "model.safetensors", (DIRECTORY / "README.md").read_text("utf-8")
    assert file.stat().st_size <= 10e6
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert re.search(rf"^Version {SMALL_SAM_VERSION}\b", card, re.MULTILINE)


def test_transformers_loads_its_directory():
    model, processor = SamModel.from_pretrained(DIRECTORY), SamProcessor.from_pretrained(DIRECTORY)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    rows, columns = np.mgrid[:90, :120]
    disc = np.hypot(rows - 40, columns - 70) < 20
    image = np.repeat(np.where(disc, 170, 80).astype(np.uint8)[..., None], 3, axis=2)
    inputs = processor(image, input_boxes=[[[50.0, 20.0, 90.0, 60.0]]], return_tensors="pt")
    with torch.no_grad():
        masks = model(**inputs, multimask_output=False).pred_masks
    (mask,) = processor.post_process_masks(masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert (mask[0, 0].numpy() & disc).sum() / (mask[0, 0].numpy() | disc).sum() > 0.8


def test_it_has_learnt():
    small = resize_input(SamModel.from_pretrained(DIRECTORY), 128)
    batches = list(DataLoader(SyntheticImages(20, 128, 32, 4, 2**31, exact_boxes=True), batch_size=20))
    before, after = measure_iou(make_small_sam(128), batches), measure_iou(small, batches)
    assert after["box"] > before["box"] + 0.3
    assert after["corrections"] > after["box"]


@pytest.mark.parametrize("name", [SMALL_SAM, DIRECTORY])
def test_name_and_directory_are_the_same_model(name):
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = SamedForSemanticSegmentation.from_pretrained(name, image_size=64, id2label={0: "background", 1: "organ"})
    weights = load_file(DIRECTORY / "model.safetensors")["vision_encoder.patch_embed.projection.weight"]
    assert torch.equal(model.sam.vision_encoder.patch_embed.projection.weight, weights.float())
    assert model(pixel_values=pixels).logits.dtype == torch.float32
    assert model.config.name_or_path == str(name)


def test_an_adapter_names_it_with_version_and_hash(adapter):
    content = json.loads((adapter / "adapter_config.json").read_text())
    assert (content["base_model_name_or_path"], content["revision"]) == (SMALL_SAM, SMALL_SAM_VERSION)
    assert json.loads((adapter / "config.json").read_text())["base_fingerprint"].startswith("sha256:")
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sum(2 * tensor.numel() for tensor in weights.values()) < 1e6  # bytes in float16


@pytest.mark.parametrize("place", ["elsewhere", "repository"])
def test_an_adapter_finds_it_from_any_directory(adapter, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path if place == "elsewhere" else DIRECTORY.parents[1])
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = SamedForSemanticSegmentation.from_pretrained(adapter)
    other = AutoModelForSemanticSegmentation.from_pretrained(adapter)
    assert torch.equal(model(pixel_values=pixels).logits, other(pixel_values=pixels).logits)
    model.save_pretrained(tmp_path / "again")
    content = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (content["base_model_name_or_path"], content["revision"]) == (SMALL_SAM, SMALL_SAM_VERSION)
    assert len(pipeline("image-segmentation", model=str(adapter))(Image.new("L", (32, 32)))) > 0


def test_another_version_is_refused(adapter):
    with pytest.raises(ValueError, match=f"expected '{SMALL_SAM_VERSION}'"):
        SamedForSemanticSegmentation.from_pretrained(SMALL_SAM, revision="0")
    config = SamedConfig.from_pretrained(adapter)
    base = SamedForSemanticSegmentation.from_pretrained(SMALL_SAM, config=config, revision=SMALL_SAM_VERSION)
    assert base.config.num_labels == 9


def test_a_repository_has_no_link_to_it(adapter, tmp_path):
    target = lay_out_repository(adapter, tmp_path / "repository", repo_id="user/adapter", dtype="float16")
    config = json.loads((target / "config.json").read_text())
    assert (config["base_model_name_or_path"], config["base_model_revision"]) == (SMALL_SAM, SMALL_SAM_VERSION)
    _, metadata, text = (target / "README.md").read_text("utf-8").split("---\n", 2)
    assert "base_model:" not in metadata
    assert f"`{SMALL_SAM}`, version {SMALL_SAM_VERSION}" in text
    assert f"huggingface.co/{SMALL_SAM}" not in text
    assert (target / "adapter_model.safetensors").stat().st_size < 1e6


def test_training_by_name(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(DIRECTORY.parents[1])
    flags = [
        "--data_dir",
        str(tiny_data),
        "--image_size",
        "64",
        "--max_train_steps",
        "1",
        "--output_dir",
        str(tmp_path),
    ]
    assert main(["train", "--model_name_or_path", SMALL_SAM, *flags, "--checkpointing_steps", "0"]) == 0
    settings = json.loads((tmp_path / "training_settings.json").read_text())
    assert settings["model_name_or_path"] == SMALL_SAM
    assert not settings["run"]["random_base"]
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (content["base_model_name_or_path"], content["revision"]) == (SMALL_SAM, SMALL_SAM_VERSION)
