"""The same global batches in one, two and four processes: the same training, and every case scored exactly once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from samed_hf.data.layouts.synapse import write_case, write_lists, write_slice

from ..conftest import TINY_LABELS, TINY_SIZE, make_case

STEPS, BATCH, EVALUATIONS = 18, 8, 2
# The cases trained on have 19 slices: of the three that end an epoch, two processes get two and one, four get one each
# but for the last, which gets none.
pytestmark = pytest.mark.slow

SLICES = {"case0000": 6, "case0001": 5, "case0002": 6, "case0003": 4, "case0004": 3, "case0005": 3, "case0006": 4}
VALIDATION, TEST = ["case0001", "case0003", "case0005"], ["case0007", "case0008"]


@pytest.fixture(scope="module")
def uneven_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("uneven") / "synapse"
    generator = np.random.default_rng(1)
    names = []
    for case_name, count in SLICES.items():
        case = make_case(case_name, generator, slices=count)
        for index, (image, label) in enumerate(zip(case.image, case.label, strict=True)):
            names.append(f"{case_name}_slice{index:03d}")
            write_slice(root, names[-1], image, label)
    for case_name in TEST:
        write_case(root, make_case(case_name, generator))
    write_lists(root, names, TEST, TINY_LABELS)
    return root


@pytest.fixture(scope="module")
def runs(uneven_data, tiny_sam, tmp_path_factory) -> dict[int, Path]:
    """A folder for each number of processes, with what `train_in_processes` leaves there."""
    root = tmp_path_factory.mktemp("processes")
    settings = {
        "model_name_or_path": str(tiny_sam),
        "data_dir": str(uneven_data),
        "cache_dir": str(root / "cache"),
        "image_size": TINY_SIZE,
        "max_train_steps": STEPS,
        "lr_warmup_steps": 5,
        "max_grad_norm": 0.5,
        "num_validation_cases": len(VALIDATION),
        "eval_steps": STEPS // EVALUATIONS,
        "checkpointing_steps": 0,
        "watched_slices": 0,
        "report_to": "none",
    }
    plan = {"folder": str(root), "batch": BATCH, "numbers": [1, 2, 4], "settings": settings}
    (root / "plan.json").write_text(json.dumps(plan))
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.train_in_processes", str(root / "plan.json")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return {number: root / str(number) for number in plan["numbers"]}


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "run" / "training_log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_data_is_as_uneven_as_it_should_be(runs):
    cases = json.loads((runs[1] / "run" / "training_settings.json").read_text())["cases"]
    assert (cases["validation"], cases["test"]) == (VALIDATION, TEST)
    assert sum(SLICES[name] for name in cases["train"]) == 2 * BATCH + 3


@pytest.mark.parametrize("number", [2, 4])
def test_every_step_has_the_same_learning_rate_and_losses(runs, number):
    log, other = log_of(runs[1]), log_of(runs[number])
    assert [row["step"] for row in log] == [row["step"] for row in other] == [str(step + 1) for step in range(STEPS)]
    assert [row["learning_rate"] for row in log] == [row["learning_rate"] for row in other]
    for key in ("loss", "cross_entropy", "dice", "gradient_norm"):
        differences = [abs(float(a[key]) - float(b[key])) for a, b in zip(log, other, strict=True)]
        assert max(differences) < 1e-4, (key, differences)
    assert float(log[-1]["loss"]) < 0.9 * float(log[0]["loss"])


@pytest.mark.parametrize("number", [2, 4])
def test_the_adapter_is_the_same(runs, number):
    adapter, other = (load_file(runs[n] / "run" / "adapter_model.safetensors") for n in (1, number))
    assert list(adapter) == list(other)
    differences = {name: (adapter[name] - other[name]).abs().max().item() for name in adapter}
    assert max(differences.values()) < 1e-3, differences
    # LoRA's B began as zeros: what is compared was trained.
    assert min(adapter[name].abs().max() for name in adapter if "lora_B" in name) > 1e-2


@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_case_is_scored_exactly_once_and_the_scores_are_gathered(runs, number):
    shares = [json.loads((runs[number] / f"scored-{rank}.json").read_text()) for rank in range(number)]
    assert sorted(name for share in shares for name in share) == sorted(EVALUATIONS * VALIDATION + TEST)
    assert all(len(set(VALIDATION) & set(share)) <= -(-len(VALIDATION) // number) for share in shares)
    scores = json.loads((runs[number] / "run" / "metrics.json").read_text())
    assert list(scores["per_case"]) == TEST


@pytest.mark.parametrize("number", [2, 4])
def test_the_validation_is_the_same(runs, number):
    scores = [[float(row["validation_dice"]) for row in log_of(runs[n]) if row["validation_dice"]] for n in (1, number)]
    assert len(scores[0]) == EVALUATIONS
    assert scores[1] == pytest.approx(scores[0], abs=0.01)  # a pixel between two labels may fall to either


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_effective_batch_is_kept_and_printed_once(runs, number):
    printed = [(runs[number] / f"output-{rank}.txt").read_text() for rank in range(number)]
    assert f"{STEPS} steps of {BATCH} slices" in printed[0]
    assert not any(f"{STEPS} steps of" in text for text in printed[1:])


@pytest.mark.slow
def test_two_processes_train_a_random_base(uneven_data, tmp_path):
    flags = {"data_dir": uneven_data, "output_dir": tmp_path, "image_size": TINY_SIZE, "max_train_steps": 1}
    flags |= {"num_validation_cases": 0, "watched_slices": 0, "report_to": "none"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = subprocess.run(
        [*launch, "-m", "samed_hf", "train", *(f"--{key}={value}" for key, value in flags.items())],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert (tmp_path / "base_model" / "model.safetensors").is_file()
    assert (tmp_path / "adapter_model.safetensors").is_file()
