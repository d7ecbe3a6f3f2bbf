import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamModel, SamProcessor

from samed_hf.cli import main
from samed_hf.pretraining import PretrainingArguments, pretrain
from samed_hf.pretraining import run as run_module

FLAGS = ["--max_train_steps", "4", "--image_size", "64", "--per_device_train_batch_size", "2", "--num_prompts", "2"]
FLAGS += ["--dense_steps", "1", "--eval_steps", "2", "--num_validation_images", "2", "--checkpointing_steps", "2"]


def settings_of(output, **changes):
    """The settings that `FLAGS` stand for, with changes."""
    numbers = {flag.removeprefix("--"): int(value) for flag, value in zip(FLAGS[::2], FLAGS[1::2], strict=True)}
    return PretrainingArguments(output_dir=str(output), **numbers | changes)


def assert_equal(*directories):
    first, second = (load_file(one / "model.safetensors") for one in directories)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrained")
    assert main(["pretrain", "--output_dir", str(output), *FLAGS]) == 0
    return output


def test_transformers_loads_it(directory):
    model, info = SamModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = SamProcessor.from_pretrained(directory)
    image = (255 * torch.rand(50, 40, 3, generator=torch.Generator().manual_seed(0))).byte().numpy()
    inputs = processor(image, input_points=[[[20.0, 30.0]]], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert inputs["pixel_values"].min() >= 0
    with torch.no_grad():
        masks = model(**inputs).pred_masks
    sizes = (inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert processor.post_process_masks(masks, *sizes)[0].shape == (1, 3, 50, 40)


def test_it_logs_the_parts_of_the_loss_and_iou(directory):
    log = json.loads((directory / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in log if "eval_iou_box" in row] == [2, 4]
    assert all(0 <= row["eval_iou_corrections"] <= 1 for row in log if "eval_iou_corrections" in row)


def test_a_resumed_run_equals_an_uninterrupted_one(directory, tmp_path):
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(directory / name, tmp_path / name)
    os.truncate(tmp_path / "checkpoint-4" / "model.safetensors", 1000)
    with pytest.raises(ValueError, match=r"checkpoint-2 .*\(learning_rate 0.001, not 0.1; seed 0, not 1\)"):
        pretrain(settings_of(tmp_path, resume=True, learning_rate=0.1, seed=1))
    assert main(["pretrain", "--output_dir", str(tmp_path), *FLAGS, "--resume"]) == 0
    assert (tmp_path / "earlier-1" / "checkpoint-4").is_dir()  # the damaged one
    assert_equal(directory, tmp_path)


def test_a_repeated_run_gives_equal_weights_and_keeps_the_earlier_ones(directory, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"earlier")

    def receive(self):
        self.signal = signal.SIGTERM
        return True

    monkeypatch.setattr(run_module.Interruption, "requested", property(receive))
    with pytest.raises(SystemExit) as stopped:
        pretrain(settings_of(tmp_path))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "earlier-1" / "model.safetensors").read_bytes() == b"earlier"
    monkeypatch.undo()
    pretrain(settings_of(tmp_path, resume=True))
    assert_equal(directory, tmp_path)


@pytest.mark.parametrize("kind", ["samed", "patch", "weights"])
def test_other_bases_are_refused(directory, tmp_path, kind):
    config = json.loads((directory / "config.json").read_text())
    if kind == "samed":
        config["model_type"] = "samed"
    elif kind == "patch":
        config["vision_config"]["patch_size"] = config["prompt_encoder_config"]["patch_size"] = 8
        config["prompt_encoder_config"]["image_embedding_size"] = 8
    weights = {} if kind == "weights" else SamModel(SamConfig.from_dict(config)).state_dict()
    weights.pop("prompt_encoder.shared_embedding.positional_embedding", None)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = {"samed": "is a SAMed model", "patch": "patches of 8 pixels: expected 16", "weights": "lacks weights"}
    with pytest.raises(ValueError, match=named[kind]):
        pretrain(settings_of(tmp_path / "out", model_name_or_path=str(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_another_stage_goes_on_at_another_size(directory, tmp_path):
    settings = PretrainingArguments(output_dir=str(tmp_path), model_name_or_path=str(directory), image_size=96)
    settings.max_train_steps, settings.per_device_train_batch_size, settings.num_validation_images = 1, 1, 1
    settings.learning_rate = 0.0
    model = pretrain(settings)
    before = SamModel.from_pretrained(directory)
    assert model.config.vision_config.image_size == 96
    assert torch.equal(model.mask_decoder.iou_token.weight, before.mask_decoder.iou_token.weight)


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="image_size is 100: expected a multiple of 16"):
        pretrain(PretrainingArguments(output_dir=str(tmp_path), image_size=100))
    with pytest.raises(ValueError, match="max_train_steps is 0"):
        pretrain(PretrainingArguments(output_dir=str(tmp_path), max_train_steps=0))
