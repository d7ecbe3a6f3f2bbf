"""Cross-validations that are killed and repeated end as if nothing had been; folds in several processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from samed_hf.cli import main

from ..conftest import TINY_SIZE

# Processes that have imported all, so that a run takes a second to start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["samed_hf.studies.parallel", "samed_hf.cli"])


@pytest.fixture(scope="module")
def whole(tiny_sam, tiny_data, tmp_path_factory):
    """A run that nothing interrupts, one fold after the other."""
    directory = tmp_path_factory.mktemp("whole")
    finish(make_command(tiny_sam, tiny_data, directory)("whole"), directory)
    return directory / "whole"


@pytest.fixture
def command(tiny_sam, tiny_data, tmp_path):
    return make_command(tiny_sam, tiny_data, tmp_path)


def make_command(tiny_sam, tiny_data, tmp_path):
    def make(name: str, *more: object) -> list[str]:
        flags = {"data_dir": tiny_data, "model_name_or_path": tiny_sam, "output_dir": tmp_path / name, "num_folds": 2}
        flags |= {"image_size": TINY_SIZE, "per_device_train_batch_size": 4, "max_train_steps": 4, "report_to": "none"}
        flags |= {"checkpointing_steps": 1, "lr_warmup_steps": 1, "watched_slices": 0}
        return [
            "cross-validate",
            *(word for key, value in flags.items() for word in (f"--{key}", str(value))),
            *map(str, more),
        ]

    return make


def _run(argv: list[str], output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    sys.exit(main(argv))


def start(argv: list[str], tmp_path: Path) -> multiprocessing.Process:
    process = FORKS.Process(target=_run, args=(argv, str(tmp_path / "out.txt")))
    process.start()
    return process


def finish(argv: list[str], tmp_path: Path) -> None:
    process = start(argv, tmp_path)
    process.join()
    assert process.exitcode == 0, (tmp_path / "out.txt").read_text()[-3000:]


def kill_when(pattern: str, argv: list[str], directory: Path, tmp_path: Path) -> list[psutil.Process]:
    """Kill a run as soon as a file is there, and return its child processes."""
    process = start(argv, tmp_path)
    while not any(directory.glob(pattern)):
        assert process.is_alive(), (tmp_path / "out.txt").read_text()[-3000:]
        time.sleep(0.001)
    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return children


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def assert_same(one: Path, other: Path) -> None:
    for fold in ("fold-0", "fold-1"):
        expected = load_file(other / fold / "adapter_model.safetensors")
        for name, tensor in load_file(one / fold / "adapter_model.safetensors").items():
            assert torch.equal(tensor, expected[name]), (fold, name)
        assert (one / fold / "metrics.json").read_bytes() == (other / fold / "metrics.json").read_bytes()
    for name in ("metrics.json", "metrics.csv", "splits_final.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    summaries = [without_times(json.loads((each / "cv_summary.json").read_text())) for each in (one, other)]
    assert summaries[0] == summaries[1]
    assert len(json.loads((one / "metrics.json").read_text())["per_case"]) == 6
    assert len(list((one / "images").iterdir())) == 6


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_fold_and_step(command, whole, tmp_path):
    directory = tmp_path / "run"
    for moment in ("cache/*", "fold-0/checkpoint-2", "fold-1/metrics.json", "fold-1/*.html"):
        kill_when(moment, command("run"), directory, tmp_path)
    finish(command("run"), tmp_path)
    assert_same(directory, whole)
    assert not list((directory / "fold-1").glob("earlier-*"))


@pytest.mark.slow
def test_folds_in_parallel_end_with_a_killed_run(command, whole, tmp_path):
    argv = command("run", "--num_parallel_folds", 2)
    children = kill_when("fold-1/checkpoint-1", argv, tmp_path / "run", tmp_path)
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    finish(argv, tmp_path)
    assert_same(tmp_path / "run", whole)
    assert "step 4/4" in (tmp_path / "run" / "fold-1.log").read_text()


@pytest.mark.slow
def test_two_folds_begun_at_once_on_a_new_directory(command, whole, tmp_path):
    runs = [start(command("run", "--fold", fold), tmp_path) for fold in (0, 1)]
    for run in runs:
        run.join()
        assert run.exitcode == 0, (tmp_path / "out.txt").read_text()[-3000:]
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_two_processes_train_each_fold(command, tmp_path):
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "samed_hf.cli",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [*launcher, *command("run")], capture_output=True, text=True, cwd=root, env=environment, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["per_case"]) == 6
    settings = json.loads((tmp_path / "run" / "fold-1" / "training_settings.json").read_text())
    assert settings["num_processes"] == 2
