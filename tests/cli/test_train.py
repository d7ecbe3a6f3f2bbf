"""The journey of the example script: training, scores, images, card, and use of the adapter."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from samed_hf.cli import main
from samed_hf.training.arguments import SamedTrainingArguments

from ..conftest import TINY_SIZE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directory and output of the example script without data and model, shortened."""
    directory = tmp_path_factory.mktemp("run") / "samed"
    flags = ["--image_size", TINY_SIZE, "--max_train_steps", 12, "--output_dir", directory]
    script = [sys.executable, "examples/train_synapse.py", *map(str, flags)]
    result = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return directory, result.stdout


@pytest.mark.slow
def test_it_prints_the_data_the_steps_and_the_scores(run):
    directory, printed = run
    assert "RANDOM weights" in printed
    assert "synthetic phantom patients: 18 cases to train on, 2 held out for validation, 6 for test" in printed
    assert "step 12/12" in printed
    mean = json.loads((directory / "metrics.json").read_text())["mean"]["dice"]
    rows = [line.split() for line in printed.splitlines()]
    assert ["mean", f"{mean:.4f}"] in [row[:2] for row in rows if row]
    assert "left kidney" in printed
    assert f"samed-hf predict {directory}" in printed


@pytest.mark.slow
def test_it_writes_an_adapter_scores_and_images(run):
    directory, _ = run
    assert {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "metrics.csv",
        "metrics.json",
        "overlay.png",
        "preprocessor_config.json",
        "training_curve.png",
        "training_log.csv",
        "training_settings.json",
    } <= {path.name for path in directory.iterdir()}
    for name in ("overlay.png", "training_curve.png"):
        with Image.open(directory / name) as image:
            assert min(image.size) > 400
            assert image.convert("L").getextrema() != (0, 0)
    metrics = json.loads((directory / "metrics.json").read_text())
    assert sorted(metrics["per_case"]) == [f"phantom{number:04d}" for number in range(20, 26)]
    assert json.loads((directory / "training_settings.json").read_text())["seed"] == 0


@pytest.mark.slow
def test_log_file_and_tensorboard_agree(run):
    directory, _ = run
    rows = list(csv.DictReader((directory / "training_log.csv").open()))
    events = EventAccumulator(str(next(directory.glob("runs/**/events*")).parent)).Reload()
    for key in ("loss", "learning_rate"):
        assert [event.value for event in events.Scalars(key)] == pytest.approx([float(row[key]) for row in rows])
    assert len(rows) == 12


@pytest.mark.slow
def test_the_card_has_the_scores_of_the_run(run):
    directory, _ = run
    card = (directory / "README.md").read_text()
    mean = json.loads((directory / "metrics.json").read_text())["mean"]["dice"]
    assert f"{mean:.4f}" in card
    assert "random weights" in card
    assert "not a medical device" in card


@pytest.mark.slow
def test_the_adapter_predicts_a_scan(run, tmp_path):
    directory, _ = run
    scan = np.random.default_rng(0).normal(40, 80, (32, 32, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([2, 2, 5, 1.0])), tmp_path / "scan.nii.gz")
    assert main(["predict", str(directory), str(tmp_path / "scan.nii.gz"), "--output", str(tmp_path / "out")]) == 0
    assert nib.load(tmp_path / "out" / "scan.nii.gz").shape == scan.shape


@pytest.mark.slow
def test_the_run_can_be_moved(run, tmp_path):
    directory, _ = run
    moved = tmp_path / "moved"
    os.rename(directory, moved)
    try:
        assert main(["evaluate", str(moved), "--data", str(moved / "phantom"), "--output", str(tmp_path / "out")]) == 0
    finally:
        os.rename(moved, directory)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["mean"] == pytest.approx(
        json.loads((directory / "metrics.json").read_text())["mean"]
    )


def test_every_setting_is_a_flag_of_the_design():
    flags = {
        "model_name_or_path",
        "data_dir",
        "output_dir",
        "image_size",
        "rank",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "num_train_epochs",
        "max_train_steps",
        "mixed_precision",
        "gradient_checkpointing",
        "resume_from_checkpoint",
        "checkpointing_steps",
        "report_to",
        "seed",
        "push_to_hub",
        "hub_model_id",
    }
    assert flags <= set(SamedTrainingArguments().to_dict())


@pytest.mark.slow
def test_the_deviations_from_a_preset(tiny_sam, tiny_data, tmp_path, capsys):
    flags = [
        "--preset",
        "samed_s",
        "--model_name_or_path",
        tiny_sam,
        "--data_dir",
        tiny_data,
        "--image_size",
        TINY_SIZE,
    ]
    more = ["--per_device_train_batch_size", 4, "--max_train_steps", 2, "--report_to", "none"]
    assert main(["train", *map(str, [*flags, *more, "--output_dir", tmp_path / "run"])]) == 0
    settings = json.loads((tmp_path / "run" / "training_settings.json").read_text())
    assert settings["variant"] == "samed_s"
    assert settings["augmentation"] == "samed"
    assert settings["lr_warmup_steps"] == 250
    assert settings["deviations"] == [
        "model_name_or_path a local directory instead of facebook/sam-vit-base",
        f"image_size {TINY_SIZE} instead of 512",
        "effective_batch_size 4 instead of 24",
        "max_train_steps 2 instead of none",
        "input_size 48 instead of 224",
    ]
    printed, card = capsys.readouterr().out, (tmp_path / "run" / "README.md").read_text()
    for text in (printed, card):
        assert "samed_s" in text
        assert "effective_batch_size 4 instead of 24" in text
    assert str(tmp_path) not in card
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["protocol"] == "samed"
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert "mask_decoder" in adapter["target_modules"]
