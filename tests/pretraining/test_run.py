import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel, SamProcessor

from samed_hf.cli import main
from samed_hf.pretraining import PretrainingArguments, pretrain

FLAGS = ["--max_train_steps", "4", "--image_size", "64", "--per_device_train_batch_size", "2", "--num_prompts", "2"]
FLAGS += ["--dense_steps", "1", "--eval_steps", "2", "--num_validation_images", "2", "--checkpointing_steps", "2"]


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
    shutil.copytree(directory / "checkpoint-2", tmp_path / "checkpoint-2")
    assert main(["pretrain", "--output_dir", str(tmp_path), *FLAGS, "--resume"]) == 0
    first, resumed = (load_file(one / "model.safetensors") for one in (directory, tmp_path))
    assert first.keys() == resumed.keys()
    assert all(torch.equal(first[name], resumed[name]) for name in first)


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
