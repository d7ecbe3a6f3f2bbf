"""The examples, as a person starts them, on data that takes seconds."""

import ast
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from nbclient import NotebookClient
from safetensors.torch import load_file

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor
from samed_hf.scoring import binary_dice
from samed_hf.volumes import read_volume

from .data_folders import make_scans, save_nifti, write_decathlon, write_nnunet

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
SHORT = ["--max_train_steps", 2, "--per_device_train_batch_size", 2, "--report_to", "none"]


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs an example as `python examples/NAME.py ARGS` does; returns what it printed and what it complained about."""

    def start(script, *args, status=0):
        path = ROOT / "examples" / f"{script}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        captured = capfd.readouterr()
        code = end.value.code
        assert (code if isinstance(code, int) else 0 if code is None else 1) == status, captured.err[-3000:]
        return captured.out, code if isinstance(code, str) else captured.err

    return start


@pytest.fixture(scope="module")
def scans():
    return make_scans(6, (20, 24, 4))


@pytest.mark.slow
def test_train_your_data(run, scans, tiny_sam, tmp_path):
    data = write_nnunet(tmp_path / "data", scans)
    printed = run("train_your_data", data, tmp_path / "out", "--model_name_or_path", tiny_sam, *SHORT)[0]
    assert "suggests    --image_size 128" in printed
    assert "disc: DSC 0." in printed
    settings = json.loads((tmp_path / "out" / "training_settings.json").read_text())
    assert (settings["image_size"], settings["preprocessing"], settings["context_slices"]) == (128, "mr", True)
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "background", 1: "disc", 2: "bar"}


@pytest.mark.slow
def test_a_flag_wins_over_what_is_suggested(run, scans, tiny_sam, tmp_path):
    data = write_nnunet(tmp_path / "data", scans)
    flags = ["--model_name_or_path", tiny_sam, "--image_size", 64, *SHORT]
    run("train_your_data", data, tmp_path / "out", *flags)
    assert json.loads((tmp_path / "out" / "training_settings.json").read_text())["image_size"] == 64


def test_faulty_data_are_not_trained_on(run, scans, tiny_sam, tmp_path):
    data = write_nnunet(tmp_path / "data", scans)
    save_nifti(data / "labelsTr" / "case_02.nii.gz", np.full((20, 24, 4), 7, np.uint8))
    printed, _ = run("train_your_data", data, tmp_path / "out", "--model_name_or_path", tiny_sam, *SHORT, status=1)
    assert "error       case_02: " in printed
    assert not (tmp_path / "out").exists()


def test_predict_scans(run, tiny_adapter, tmp_path):
    image = make_scans(1, (40, 44, 3))["case_00"][0]
    save_nifti(tmp_path / "in" / "scan.nii.gz", image)
    printed = run("predict_scans", tiny_adapter, tmp_path / "out", tmp_path / "in")[0]
    labels = read_volume(tmp_path / "out" / "scan.nii.gz")
    np.testing.assert_array_equal(labels.affine, nib.load(tmp_path / "in" / "scan.nii.gz").affine)
    assert labels.grid == (40, 44, 3)
    volume = np.count_nonzero(labels.array == 1) * 1.0 * 1.5 * 3.0 / 1000
    assert f"  disc: {volume:.2f} ml" in printed


@pytest.mark.slow
def test_train_mr(run, scans, tiny_sam, tmp_path):
    data = write_decathlon(tmp_path / "data", scans, validation_cases=["case_01.nii.gz"])
    run("train_mr", data, tmp_path / "out", "--model_name_or_path", tiny_sam, *SHORT)
    processor = SamedImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.intensity_window is None
    assert processor.percentiles == [0.5, 99.5]
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())["per_case"]) == ["case_01"]


def is_json(file):
    """Whether a file that another process writes is complete."""
    try:
        return bool(json.loads(file.read_text()))
    except (OSError, ValueError):
        return False


@pytest.mark.slow
def test_train_with_trainer_killed_and_resumed(tiny_sam, tiny_data, tmp_path):
    flags = ["--data_dir", tiny_data, "--model_name_or_path", tiny_sam, "--image_size", 64, "--max_steps", 15]
    flags += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", 5, "--save_steps", 5]
    start = [sys.executable, ROOT / "examples" / "train_with_trainer.py", *flags, "--use_cpu", "--output_dir"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(name, *more):
        return list(map(str, [*start, tmp_path / name, *more]))

    subprocess.run(command("whole"), env=environment, check=True)
    process = subprocess.Popen(command("killed"), env=environment)
    while not is_json(tmp_path / "killed" / "checkpoint-5" / "trainer_state.json") and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    half = tmp_path / "killed" / "checkpoint-10"  # as a kill leaves it in the middle of the save
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(tmp_path / "killed" / "checkpoint-5", half)
    (half / "trainer_state.json").write_text('{"best_')
    subprocess.run(command("killed", "--resume_from_checkpoint", "latest"), env=environment, check=True)
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    model = SamedForSemanticSegmentation.from_pretrained(tmp_path / "killed")
    assert model.config.id2label == {0: "background", 1: "disc", 2: "bar"}
    assert model.image_processor.image_size == 64


@pytest.mark.parametrize("script", ["train_your_data", "predict_scans", "train_mr"])
def test_they_say_what_they_want(run, script):
    assert f"python examples/{script}.py" in run(script, status=1)[1]


def test_a_mistake_is_one_line(run, tiny_adapter, tmp_path):
    for script, args in (
        ("train_your_data", (tmp_path / "nowhere", tmp_path / "out")),
        ("predict_scans", (tiny_adapter, tmp_path / "out", tmp_path / "nowhere.nii.gz")),
        ("train_mr", (tmp_path / "nowhere", tmp_path / "out")),
    ):
        lines = run(script, *args, status=2)[1].strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert "nowhere" in lines[0]
    assert not (tmp_path / "out").exists()


def imports_of_the_package(path):
    """Module and name of each import from samed_hf."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(source, as_version=4).cells
        lines = (line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines())
        source = "\n".join(line for line in lines if not line.startswith("%"))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "samed_hf":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith("samed_hf."))


def public_names(module):
    """`__all__` of a package's `__init__`; nothing of a module."""
    imported = importlib.import_module(module)
    return imported.__all__ if hasattr(imported, "__path__") else ()


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").glob("*.ipynb")]),
    ids=lambda path: path.name,
)
def test_examples_import_public_names_alone(path):
    for module, name in imports_of_the_package(path):
        assert name in public_names(module), f"{path.name}: {module}.{name}"


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    metrics = json.loads((tmp_path / "tutorial" / "adapter" / "metrics.json").read_text())
    assert set(metrics["per_class"]) == {"spleen", "kidneys", "liver"}
    prediction, truth = (
        read_volume(tmp_path / "tutorial" / "new" / f"{name}.nii.gz") for name in ("prediction", "truth")
    )
    np.testing.assert_array_equal(prediction.affine, truth.affine)
    assert binary_dice(prediction.array == 3, truth.array == 3) > 0.6
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_tutorial_is_stored_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
