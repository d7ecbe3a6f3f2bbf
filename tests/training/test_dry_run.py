"""`samed-hf train --dry_run`: the plan of a run."""

import re
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from samed_hf.cli import main
from samed_hf.data.prepare import prepare_phantom
from samed_hf.diagnostics.memory import StepSettings, base_config, estimate_training
from samed_hf.training import dry_run

from ..conftest import TINY_SIZE


def flags(tiny_sam, tiny_data, output_dir, *more):
    given = [
        "--model_name_or_path",
        tiny_sam,
        "--data_dir",
        tiny_data,
        "--image_size",
        TINY_SIZE,
        "--report_to",
        "none",
    ]
    return ["train", *map(str, [*given, "--max_train_steps", 3, "--output_dir", output_dir, *more])]


@pytest.mark.slow
def test_the_plan_equals_the_runs_and_nothing_is_written(tiny_sam, tiny_data, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(flags(tiny_sam, tiny_data, output, "--dry_run")) == 0
    planned = capsys.readouterr().out.splitlines()
    assert list(tmp_path.iterdir()) == []
    assert planned[-1] == "dry run     nothing was trained or written"
    assert main(flags(tiny_sam, tiny_data, output)) == 0
    done = capsys.readouterr().out.splitlines()
    for name in ("data", "slices", "labels", "base model", "trains", "run"):
        line = next(one for one in planned if one.startswith(f"{name} "))
        assert line in done
    assert not any(line.startswith("warning") for line in planned)


@pytest.mark.slow
def test_a_plan_for_the_phantom_leaves_no_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("samed_hf.training.data.prepare_phantom", lambda folder: _small_phantom(folder))
    assert main(["train", "--dry_run", "--report_to", "none", "--output_dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "synthetic phantom patients: 3 cases to train on" in printed
    assert "RANDOM weights" in printed
    assert re.search(r"^memory +about \d+\.\d\d GB", printed, re.M)
    assert list(tmp_path.iterdir()) == []


def _small_phantom(folder):
    return prepare_phantom(folder, num_train=3, num_test=1, shape=(8, 64, 64))


@pytest.mark.slow
def test_short_memory_is_a_warning_with_remedies(tiny_sam, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("samed_hf.training.dry_run.free_memory", lambda device: 10**6)
    monkeypatch.setattr("samed_hf.training.dry_run.computes_bfloat16", lambda device: False)
    assert main(flags(tiny_sam, tiny_data, tmp_path / "run", "--dry_run", "--per_device_train_batch_size", 8)) == 0
    printed, warnings = capsys.readouterr()
    assert "warning     0.0" in warnings
    tried = [line for line in printed.splitlines() if line.startswith("try")]
    assert any("--gradient_checkpointing" in line for line in tried)
    assert any("--per_device_train_batch_size 4 with twice the --gradient_accumulation_steps" in line for line in tried)
    assert any("--per_device_train_batch_size 1 with 8 times the --grad" in line for line in tried)
    assert "smaller --image_size" in tried[-1]
    assert not any("adamw_8bit" in line or "bf16" in line for line in tried)  # no GPU, nor instructions for it, here
    needs = [float(number) for line in tried for number in re.findall(r"about ([\d.]+) GB", line)]
    assert needs == sorted(needs, reverse=True)


@pytest.mark.slow
def test_a_smaller_base_is_suggested_as_the_run_is_or_with_all_flags(monkeypatch, narrow_models):
    lines = []
    monkeypatch.setattr(dry_run, "logger", SimpleNamespace(info=lines.append))
    base, step = base_config("ViT-B"), StepSettings(image_size=64, batch_size=2, fused=False)
    slim = replace(step, batch_size=1, gradient_checkpointing=True)
    required = estimate_training(base, step).total
    for name, how, settings in (("SlimSAM-50", "instead", step), ("SlimSAM-77", "also", slim)):
        free = estimate_training(base_config(name), settings).total
        dry_run._log_remedies(base, step, free, required, None)
        flag = f"{how} --model_name_or_path nielsr/{name.lower()}-uniform"
        assert lines[-1] == f"try         {flag}, a smaller base model: about {free / 1e9:.2f} GB"


def test_bad_settings_are_errors_as_in_the_run(tiny_sam, tiny_data, tmp_path, capsys):
    for more, expected in (
        (("--optimizer", "adamw_8bit"), "adamw_8bit, but the run is on cpu"),
        (("--frozen_dtype", "bfloat16"), "frozen_dtype is bfloat16"),
        (("--resume_from_checkpoint", str(tmp_path / "none")), "resume_from_checkpoint"),
        (("--model_name_or_path", str(tmp_path / "none")), "model_name_or_path"),
    ):
        assert main(flags(tiny_sam, tiny_data, tmp_path / "run", "--dry_run", *more)) == 2
        assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_slices_of_scans_are_estimated_from_a_few(tiny_sam, tmp_path, capsys):
    for number in range(5):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            array = np.zeros((20, 24, 6), np.uint8 if kind == "masks" else np.int16)
            array[4:8, 4:8] = 1
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "data" / kind / f"case{number}.nii.gz")
    given = ["--num_validation_cases", 0, "--label_names", "background", "square", "--dry_run"]
    assert main(flags(tiny_sam, tmp_path / "data", tmp_path / "run", *given)) == 0
    printed = capsys.readouterr().out
    assert "slices      30 of" in printed
    assert "of 5 cases" in printed
    assert not (tmp_path / "run").exists()
