"""Runs that are killed, interrupted, short of room or given damaged checkpoints, and go on as if nothing had been."""

import contextlib
import csv
import faulthandler
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file

from samed_hf.cli import run_command
from samed_hf.data.layouts.synapse import write_slice
from samed_hf.model.random_sam import make_random_sam
from samed_hf.training import loop as training
from samed_hf.training import step as training_step
from samed_hf.training import validation as training_validation
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.checkpointing import checkpoints
from samed_hf.training.checkpointing.checkpoints import check_checkpoint, find_checkpoint, list_checkpoints
from samed_hf.training.distributed.interruption import Interrupted
from samed_hf.training.loop import train
from samed_hf.utils.console import configure_logging

from ..conftest import TINY_SIZE
from .conftest import reset_accelerate

# Processes that have imported all, so that a run takes a second to start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["samed_hf.training.loop", "samed_hf.cli", "torch.utils.tensorboard"])


@pytest.fixture
def settings(tiny_sam, tiny_data, tmp_path):
    """Settings of a run of six steps, over which tests put theirs; as a dictionary, for another process."""

    def make(**changes) -> dict:
        defaults = {
            "model_name_or_path": str(tiny_sam),
            "data_dir": str(tiny_data),
            "output_dir": str(tmp_path / "run"),
            "cache_dir": str(tmp_path / "cache"),
            "image_size": TINY_SIZE,
            "per_device_train_batch_size": 4,
            "max_train_steps": 6,
            "lr_warmup_steps": 2,
            "checkpointing_steps": 0,
            "num_validation_cases": 0,
            "watched_slices": 0,
            "report_to": "none",
        }
        return defaults | changes

    return make


def run(**settings):
    """Train in this process."""
    reset_accelerate()
    return train(SamedTrainingArguments(**settings))


def shard_on_the_cpu() -> None:
    """Make Accelerate's runs in several processes use FSDP2, which it does on accelerators only."""
    make = AcceleratorState.__init__

    def make_sharded(self, *args, **options) -> None:
        make(self, *args, **options)
        self.distributed_type, self.fsdp_plugin = (
            DistributedType.FSDP,
            FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=["SamedVisionLayer"],
                cpu_ram_efficient_loading=False,
            ),
        )

    AcceleratorState.__init__ = make_sharded


def _in_fork(settings: dict, output: str, environment: dict, slow_validation: bool, sharded: bool) -> None:
    """What a process of its own does: train as the command line would, and end with its status."""
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    configure_logging()
    faulthandler.dump_traceback_later(8, repeat=True)
    multiprocessing.set_start_method("fork", force=True)  # for workers, as in a program of its own
    if sharded:
        shard_on_the_cpu()
    if slow_validation:
        predict = training_validation.predict_slices

        def slowly(*args):
            print("validating", flush=True)
            for _ in range(600):
                time.sleep(0.1)
            return predict(*args)

        training_validation.predict_slices = slowly
    sys.exit(run_command(lambda: train(SamedTrainingArguments(**settings)) and None))


def start(settings: dict, output: Path, environment: dict | None = None, slow_validation=False, sharded=False):
    """Train in a process of its own, what it says going to a file."""
    process = FORKS.Process(target=_in_fork, args=(settings, str(output), environment or {}, slow_validation, sharded))
    process.start()
    return process


def until(condition, process) -> bool:
    """Wait for a condition; return whether it was met before the process ended."""
    while not condition():
        if not process.is_alive():
            return False
        time.sleep(0.001)
    return True


def adapter_of(folder: Path):
    return load_file(folder / "adapter_model.safetensors")


def assert_same(folder: Path, other: Path):
    adapter, expected = adapter_of(folder), adapter_of(other)
    assert list(adapter) == list(expected)
    for name, tensor in adapter.items():
        assert torch.equal(tensor, expected[name]), name


def log_of(folder: Path) -> list[dict]:
    """The log without what depends on the machine."""
    with (folder / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("samples_per_second", "memory_bytes")} for row in rows]


def half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


# Killed


@pytest.mark.slow
def test_a_run_killed_twenty_times_gives_the_same_adapter(settings, tmp_path):
    kills = 20
    changes = {"dataloader_num_workers": 2, "checkpointing_steps": 1, "ema_decay": 0.9, "max_train_steps": 4 * kills}
    changes |= {"num_validation_cases": 1, "eval_steps": 5, "resume_from_checkpoint": "latest"}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    process = start(settings(output_dir=str(whole), **changes), tmp_path / "whole.txt")
    process.join()
    assert process.exitcode == 0, (tmp_path / "whole.txt").read_text()
    generator, left, done = np.random.default_rng(0), [], 0
    for kill in range(kills):
        process = start(settings(**changes), tmp_path / "out.txt")
        if kill % 5 == 4:  # at any moment, also before the first step
            time.sleep(generator.uniform(0, 1.5))
        else:
            until(lambda done=done: newest(folder) > done, process)
            if kill % 2:
                time.sleep(generator.uniform(0, 0.1))
            else:
                until(lambda: list(folder.glob(".checkpoint-*.tmp")), process)
                time.sleep(generator.uniform(0, 0.004))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "out.txt").read_text()
        left += half_written(folder)
        done = newest(folder)
        found = find_checkpoint(folder, "latest")
        assert (found is None) == (done == 0)
        assert found is None or found.name == f"checkpoint-{done}"  # no torn one
    process = start(settings(**changes), tmp_path / "out.txt")
    process.join()
    assert process.exitcode == 0, (tmp_path / "out.txt").read_text()
    assert_same(folder, whole)
    assert_same(folder / "best", whole / "best")
    assert log_of(folder) == log_of(whole)
    for name in ("random_states_0.json", "training_state.json", "training_state.safetensors"):
        one, two = ((list_checkpoints(each)[-1] / name).read_bytes() for each in (folder, whole))
        if name == "training_state.json":
            one, two = (json.loads(each) | {"identity": None, "pending": None} for each in (one, two))
        assert one == two
    assert half_written(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert sum(name.startswith(".checkpoint-") for name in left) >= 1  # killed while a checkpoint was being written


def newest(folder: Path) -> int:
    """Steps of the last checkpoint."""
    found = list_checkpoints(folder)
    return int(found[-1].name.rpartition("-")[2]) if found else 0


# Interrupted


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_a_checkpoint_that_resumes_exactly(settings, tmp_path, number, status):
    changes = {"max_train_steps": 30, "dataloader_num_workers": 2}
    folder, output = tmp_path / "run", tmp_path / "out.txt"
    process = start(settings(**changes), output)
    assert until(lambda: steps_in(folder) >= 5, process)
    for child in [process.pid, *children_of(process.pid)]:  # as a terminal and a scheduler do
        os.kill(child, number)
    process.join()
    assert process.exitcode == status
    (checkpoint,) = list_checkpoints(folder)
    assert check_checkpoint(checkpoint) is None
    output_text = output.read_text()
    assert f"{checkpoint} is complete" in output_text
    assert "--resume_from_checkpoint latest" in output_text
    assert "Traceback" not in output_text
    assert half_written(folder) == []
    run(**settings(output_dir=str(tmp_path / "whole"), **changes))
    run(**settings(resume_from_checkpoint="latest", **changes))
    assert_same(folder, tmp_path / "whole")
    assert log_of(folder) == log_of(tmp_path / "whole")


def steps_in(folder: Path) -> int:
    log = folder / "training_log.csv"
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_an_interrupted_validation_is_repeated_after_resuming(settings, tmp_path):
    changes = {"num_validation_cases": 2, "eval_steps": 3}
    folder, output = tmp_path / "run", tmp_path / "out.txt"
    process = start(settings(**changes), output, slow_validation=True)
    assert until(lambda: output.is_file() and "validating" in output.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-3"]
    assert steps_in(folder) == 2
    run(**settings(output_dir=str(tmp_path / "whole"), **changes))
    run(**settings(resume_from_checkpoint="latest", **changes))
    assert log_of(folder) == log_of(tmp_path / "whole")
    assert_same(folder, tmp_path / "whole")
    assert_same(folder / "best", tmp_path / "whole" / "best")


def start_two(settings: dict, folder: Path, sharded: bool = False) -> list:
    """Train in two processes, each with its own output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(settings, folder / f"{rank}.txt", shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, sharded=sharded)
        for rank in range(2)
    ]


def in_two_processes(settings: dict, folder: Path, sharded: bool) -> list[int]:
    """Train in two processes to the end, and return their statuses."""
    processes = start_two(settings, folder, sharded)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(settings, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(settings(max_train_steps=400, per_device_train_batch_size=2), tmp_path)
    assert until(lambda: steps_in(folder) >= 5, processes[0]), (tmp_path / "0.txt").read_text()
    os.kill(processes[1].pid, signal.SIGTERM)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [143, 143]
    (checkpoint,) = list_checkpoints(folder)
    assert check_checkpoint(checkpoint) is None
    assert {"random_states_0.json", "random_states_1.json"} <= {path.name for path in checkpoint.iterdir()}
    assert steps_in(folder) == newest(folder)


@pytest.mark.slow
def test_a_signal_after_the_last_step_leaves_a_run_that_can_be_finished(settings, tmp_path, monkeypatch):
    step = training.take_step

    def interrupted(state, batches):
        row = step(state, batches)
        if state.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    monkeypatch.setattr(training, "take_step", interrupted)
    with pytest.raises(Interrupted) as ended:
        run(**settings())
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setattr(training, "take_step", None)  # there is nothing left to train
    run(**settings(resume_from_checkpoint="latest"))
    assert_same(tmp_path / "run", tmp_path / "run" / "checkpoint-6")


SECOND = """
import os, signal, sys, time
from accelerate import Accelerator
from samed_hf.training.distributed.interruption import Interruption
with Interruption(Accelerator(cpu=True), apart=0.2) as interruption:
    for number in (signal.SIGTERM, signal.SIGINT):  # the second one at once: the same request
        os.kill(os.getpid(), number)
    print("requested", interruption.requested, interruption.end().code, flush=True)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


@pytest.mark.slow
def test_a_second_signal_ends_at_once():
    command = [sys.executable, "-c", SECOND]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "requested True 143\n"), result.stderr
    assert "SIGTERM: ends after this step" in result.stderr


# Damaged checkpoints


@pytest.fixture(scope="module")
def two_checkpoints(tiny_sam, tiny_data, tmp_path_factory):
    """A run of six steps that left checkpoint-2 and checkpoint-4, and its adapter."""
    folder = tmp_path_factory.mktemp("two") / "run"
    settings = {"model_name_or_path": str(tiny_sam), "data_dir": str(tiny_data), "output_dir": str(folder)}
    settings |= {"image_size": TINY_SIZE, "per_device_train_batch_size": 4, "max_train_steps": 6, "lr_warmup_steps": 2}
    settings |= {"checkpointing_steps": 2, "num_validation_cases": 0, "report_to": "none"}
    run(**settings, cache_dir=str(folder.parent / "cache"))
    return folder


@pytest.fixture
def broken(two_checkpoints, tmp_path):
    """A copy of that run, without its adapter."""
    shutil.copytree(two_checkpoints, tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    return tmp_path / "run"


def cut_off(path: Path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a file cut off": (
        lambda folder: cut_off(folder / "training_state.safetensors"),
        "training_state.safetensors has .* bytes instead of",
    ),
    "a file missing": (lambda folder: (folder / "random_states_0.json").unlink(), "random_states_0.json is missing"),
    "a bit flipped": (lambda folder: flip_a_bit(folder / "adapter_model.safetensors"), "doesn't match"),
    "of the state": (lambda folder: flip_a_bit(folder / "training_state.json"), "training_state.json doesn't match"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
    "half a manifest": (lambda folder: cut_off(folder / "manifest.json"), "manifest.json can't be read"),
    "an empty folder": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "no manifest.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_logged_and_the_one_before_is_used(broken, kind, caplog):
    damage, message = DAMAGE[kind]
    assert find_checkpoint(broken, "latest") == broken / "checkpoint-4"
    damage(broken / "checkpoint-4")
    assert find_checkpoint(broken, "latest") == broken / "checkpoint-2"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(broken / "checkpoint-4") in caplog.text
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_checkpoint(broken, str(broken / "checkpoint-4"))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [["checkpoint-4"], ["checkpoint-2", "checkpoint-4"]])
def test_a_run_resumes_from_the_last_complete_checkpoint(settings, two_checkpoints, broken, damaged, caplog):
    for name in damaged:
        flip_a_bit(broken / name / "training_state.safetensors")
    run(**settings(checkpointing_steps=2, checkpoints_total_limit=1, resume_from_checkpoint="latest"))
    output_text = caplog.text
    for name in damaged:
        assert f"{name} is damaged (training_state.safetensors doesn't match" in output_text
        assert (broken / "earlier-1" / name).is_dir()
    assert ("from the first step" in output_text) == (len(damaged) == 2)
    assert_same(broken, two_checkpoints)
    # The limit never counts a damaged one, nor takes the newest away.
    assert [path.name for path in list_checkpoints(broken)] == ["checkpoint-4"]
    assert check_checkpoint(broken / "checkpoint-4") is None


@pytest.mark.slow
def test_resuming_from_an_earlier_checkpoint_archives_the_later_ones(settings, two_checkpoints, broken):
    requested = str(broken / "checkpoint-2")
    run(**settings(checkpointing_steps=3, resume_from_checkpoint=requested))
    assert_same(broken, two_checkpoints)
    assert [path.name for path in list_checkpoints(broken)] == ["checkpoint-2", "checkpoint-3"]
    assert (broken / "earlier-1" / "checkpoint-4").is_dir()


@pytest.mark.slow
def test_a_replacement_interrupted_by_a_kill_is_repaired(settings, two_checkpoints, broken):
    (broken / "checkpoint-4").rename(broken / ".checkpoint-4.old")
    (broken / ".checkpoint-4.tmp").mkdir()
    (broken / ".checkpoint-4.tmp" / "training_state.safetensors").write_bytes(b"half")
    (broken / ".abc.tmp").mkdir()
    run(**settings(resume_from_checkpoint="latest"))
    assert half_written(broken) == []
    assert [path.name for path in list_checkpoints(broken)] == ["checkpoint-2", "checkpoint-4"]
    assert_same(broken, two_checkpoints)


@pytest.mark.slow
def test_the_same_command_starts_and_resumes(settings, tmp_path, caplog):
    for _ in range(2):
        run(**settings(checkpointing_steps=4, resume_from_checkpoint="latest"))
    output_text = caplog.text
    assert output_text.count("no complete checkpoint yet: from the first step") == 1
    assert output_text.count("checkpoint-4, 4 steps done") == 1
    assert adapter_of(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.002}, {"rank": 8}, {"seed": 1}, {"per_device_train_batch_size": 3}]
)
def test_a_checkpoint_of_other_settings_is_refused(settings, broken, change):
    (name, value), *_ = change.items()
    with pytest.raises(ValueError, match=rf"{name} .*\b{value}\b"):
        run(**settings(resume_from_checkpoint="latest", **change))


# Checkpoints of others


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


READ = [
    *("adapter_model.safetensors", "training_state.safetensors", "training_state.json", "random_states_0.json"),
    *("training_log.csv", "manifest.json"),
]
NOT_READ = [
    *("custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "random_states_0.pkl", "optimizer.bin", "scheduler.bin"),
    *("scaler.pt", "sampler.bin", "dl_state_dict.bin", "pytorch_model.bin", "model.safetensors", "adapter_model.bin"),
    *("pytorch_model_fsdp.bin", "pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "adapter_config.json"),
    *("config.json", "preprocessor_config.json"),
]


def put_pickles(directory: Path, names: list[str], victim: Path, dump) -> None:
    """Write pickles that create `victim`, and a manifest that agrees with them."""
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        with (directory / name).open("wb") as file:
            dump(Malicious(victim), file)
    if "manifest.json" not in names:
        renew_manifest(directory)


@pytest.mark.slow
@pytest.mark.parametrize("dump", [lambda thing, file: pickle.dump(thing, file), torch.save], ids=["pickle", "torch"])
def test_no_pickle_in_a_checkpoint_is_executed(settings, broken, tmp_path, dump):
    directory, victim = broken / "checkpoint-4", tmp_path / "executed"
    again = settings(max_train_steps=4, resume_from_checkpoint=str(directory))
    put_pickles(directory, NOT_READ, victim, dump)
    whole = shutil.copytree(directory, tmp_path / "whole")
    run(**again)
    assert not victim.exists()
    for name in READ:
        shutil.rmtree(directory)
        shutil.copytree(whole, directory)
        put_pickles(directory, [name], victim, dump)
        with pytest.raises(ValueError, match="checkpoint-4 is damaged"):
            run(**again)
        assert not victim.exists(), name
    dump(Malicious(victim), file := io.BytesIO())
    file.seek(0)
    pickle.load(file) if dump is not torch.save else torch.load(file, weights_only=False)
    assert victim.exists()  # what would have happened


def change_state(directory: Path, change) -> None:
    """Change what `training_state.json` holds, and write a manifest that agrees."""
    state = json.loads((directory / "training_state.json").read_text())
    change(state)
    (directory / "training_state.json").write_text(json.dumps(state))
    renew_manifest(directory)


def renew_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    checkpoints.write_manifest(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("step", value) for value in ("four", None, -1, [])),
        *(("schedule", value) for value in (None, {}, {"step": 4}, {"step": 4, "learning_rates": []})),
        *((key, value) for key in ("guard", "best", "run") for value in (None, [1], {"step": "x"})),
        *(("values", value) for value in (None, {"optimizer/9999/step": 1}, {"optimizer/0": 3}, {"optimizer": 3})),
        *(("settings", value) for value in (None, [1], {"seed": "x"})),
        ("pending", 3),
    ],
)
def test_a_state_of_other_types_is_one_clear_error(settings, broken, key, value):
    change_state(broken / "checkpoint-4", lambda state: state.update({key: value}))
    if (key, value) == ("run", {"step": "x"}):  # no fingerprint to compare
        change_state(broken / "checkpoint-4", lambda state: state.update(run={"base_model": 1}))
    with pytest.raises(ValueError, match="checkpoint-4"):
        run(**settings(resume_from_checkpoint="latest"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("change", [lambda tensor: None, lambda tensor: torch.zeros(3)], ids=["missing", "shape"])
def test_moments_that_do_not_fit_the_weights_are_one_clear_error(settings, broken, name, change):
    path = broken / "checkpoint-4" / "training_state.safetensors"
    tensors = load_file(path)
    tensors[f"optimizer/0/{name}"] = change(tensors[f"optimizer/0/{name}"])
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    renew_manifest(broken / "checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-4 is damaged.*weight 0"):
        run(**settings(resume_from_checkpoint="latest"))


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_refused_by_name(settings, broken, tmp_path):
    put_pickles(broken / "checkpoint-4", NOT_READ, tmp_path / "executed", pickle.dump)
    change_state(broken / "checkpoint-4", lambda state: state.pop("schedule"))
    with pytest.raises(ValueError, match=r"checkpoint-4 was written by an earlier version .*pickled files"):
        run(**settings(resume_from_checkpoint="latest"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_deepspeed_is_refused_where_its_pickles_would_be_written(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    for changes in ({"checkpointing_steps": None}, {"resume_from_checkpoint": "latest"}):
        with pytest.raises(ValueError, match="--checkpointing_steps 0"):
            run(**settings(**changes))
    assert not (tmp_path / "run").exists()


# Other inputs


@pytest.mark.slow
def test_another_base_model_is_refused_and_the_same_elsewhere_is_not(settings, broken, tiny_sam, tmp_path):
    other = make_random_sam(
        tmp_path / "other", image_size=128, hidden_size=32, num_layers=4, num_heads=4, embedding_size=32, seed=1
    )
    with pytest.raises(ValueError, match=r"other inputs: the base model's weights differ.*--model_name_or_path"):
        run(**settings(model_name_or_path=str(other), resume_from_checkpoint="latest"))
    moved = shutil.copytree(tiny_sam, tmp_path / "moved")
    run(**settings(model_name_or_path=str(moved), max_train_steps=4, resume_from_checkpoint="latest"))


@pytest.mark.slow
def test_other_data_is_refused_and_the_same_elsewhere_is_not(settings, broken, two_checkpoints, tiny_data, tmp_path):
    moved = shutil.copytree(tiny_data, tmp_path / "moved")
    image, label = np.full((48, 48), 0.5, np.float32), np.zeros((48, 48), np.uint8)
    write_slice(moved, "case0003_slice002", image, label)
    with pytest.raises(ValueError, match=r"other inputs: the data differ.*--data_dir"):
        run(**settings(data_dir=str(moved), resume_from_checkpoint="latest"))
    shutil.rmtree(moved)
    shutil.copytree(tiny_data, moved)
    run(**settings(data_dir=str(moved), checkpointing_steps=2, resume_from_checkpoint="latest"))
    assert_same(broken, two_checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharded", "recipe"),
    [
        (False, {}),
        (True, {}),
        (False, {"encoder": "frozen", "optimizer": "adam"}),
        (True, {"encoder": "full", "optimizer": "sgd"}),
    ],
    ids=str,
)
def test_two_processes_resume_exactly(settings, tmp_path, sharded, recipe):
    changes = {"per_device_train_batch_size": 2, "ema_decay": 0.9, "checkpointing_steps": 2} | recipe
    for output, more in (("whole", {}), ("run", {"resume_from_checkpoint": "latest"})):
        if more:
            shutil.copytree(tmp_path / "whole", tmp_path / "run")
            (tmp_path / "run" / "adapter_model.safetensors").unlink()
            shutil.rmtree(tmp_path / "run" / "checkpoint-4")
        both = settings(output_dir=str(tmp_path / output), **changes, **more)
        assert in_two_processes(both, tmp_path, sharded) == [0, 0], (tmp_path / "0.txt").read_text()
    output = (tmp_path / "0.txt").read_text()
    assert "checkpoint-2, 2 steps done" in output
    assert ("FSDP2-wrapped module" in output) == sharded  # of a warning of PyTorch
    assert_same(tmp_path / "run", tmp_path / "whole")
    one, two = (load_file(tmp_path / name / "checkpoint-4/training_state.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.slow
def test_more_steps_done_than_the_run_has_are_refused(settings, broken):
    with pytest.raises(ValueError, match="has 4 steps done, but the run has 3"):
        run(**settings(max_train_steps=3, resume_from_checkpoint="latest"))


@pytest.mark.slow
def test_tensorboard_has_each_step_once_after_resuming(settings, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step = training.take_step

    def break_off(state, batches):
        if state.step == 5:
            raise KeyboardInterrupt
        return step(state, batches)

    monkeypatch.setattr(training, "take_step", break_off)
    with pytest.raises(KeyboardInterrupt):
        run(**settings(report_to="tensorboard", checkpointing_steps=3, intensity_window=[-125, 275]))
    monkeypatch.undo()
    changes = {"report_to": "tensorboard", "resume_from_checkpoint": "latest", "intensity_window": [-125, 275]}
    run(**settings(**changes)).accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "run" / "runs" / "samed_hf"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in losses] == pytest.approx([float(row["loss"]) for row in log_of(tmp_path / "run")])


# No room


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a small tmpfs; another size, or read-only, with the function's own call."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if place.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_leaves_earlier_checkpoints_complete(settings, small_disk, tmp_path, capsys):
    folder = small_disk("size=2m") / "run"
    changes = {"output_dir": str(folder), "checkpointing_steps": 1, "checkpoints_total_limit": 5}
    assert run_command(lambda: run(**settings(**changes)) and None) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    last = list_checkpoints(folder)[-1].name
    assert f"can't be written to {folder} (No space left on device); {last} is complete" in message
    assert "--resume_from_checkpoint latest" in message
    assert [check_checkpoint(path) for path in list_checkpoints(folder)] == [None] * len(list_checkpoints(folder))
    assert half_written(folder) == []
    small_disk("size=20m")
    run(**settings(resume_from_checkpoint="latest", **changes))
    run(**settings(output_dir=str(tmp_path / "whole")))
    assert_same(folder, tmp_path / "whole")


@pytest.mark.slow
def test_a_read_only_directory_is_an_error_before_the_training(settings, small_disk, capsys):
    folder = small_disk("size=20m") / "run"
    run(**settings(output_dir=str(folder), checkpointing_steps=4))
    small_disk("ro")
    changes = {"output_dir": str(folder), "resume_from_checkpoint": "latest"}
    capsys.readouterr()
    assert run_command(lambda: run(**settings(**changes)) and None) == 2
    output_text = capsys.readouterr()
    assert output_text.err.count("\n") == 1
    assert f"output_dir '{folder}' can't be written to (Read-only file system)" in output_text.err
    assert output_text.out == ""
    assert check_checkpoint(folder / "checkpoint-4") is None


@pytest.mark.slow
def test_a_disk_that_fills_up_between_two_checkpoints_is_an_error(settings, small_disk, monkeypatch, capsys):
    folder = small_disk("size=4m") / "run"
    step = training.take_step

    def fill_the_disk(state, batches):
        if state.step == 3:
            with (folder / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 12))
            (folder / "training_log.csv").open("ab").close()
        return step(state, batches)

    monkeypatch.setattr(training, "take_step", fill_the_disk)
    changes = {"output_dir": str(folder), "max_train_steps": 60, "checkpointing_steps": 2, "report_to": "tensorboard"}
    assert run_command(lambda: run(**settings(**changes)) and None) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in message
    assert "checkpoint-2" in message
    assert check_checkpoint(folder / "checkpoint-2") is None
    assert half_written(folder) == []


@pytest.mark.slow
def test_a_failed_checkpoint_deletes_no_earlier_one(settings, tmp_path, monkeypatch):
    seal = checkpoints.write_manifest

    def fail(folder):
        if folder.name == ".checkpoint-4.tmp":
            raise OSError(28, "No space left on device")
        seal(folder)

    monkeypatch.setattr(checkpoints, "write_manifest", fail)
    with pytest.raises(OSError, match=r"step 4 can't be written .*No space left.*checkpoint-2 is complete"):
        run(**settings(checkpointing_steps=2, checkpoints_total_limit=1))
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert half_written(tmp_path / "run") == []


@pytest.mark.slow
def test_a_checkpoint_that_is_read_back_differently_is_deleted(settings, tmp_path, monkeypatch):
    seal = checkpoints.write_manifest

    def spoil(folder):
        seal(folder)
        flip_a_bit(folder / "training_state.safetensors")

    monkeypatch.setattr(checkpoints, "write_manifest", spoil)
    with pytest.raises(OSError, match=r"read back, training_state.safetensors doesn't match.*there is no earlier one"):
        run(**settings(checkpointing_steps=2))
    assert list_checkpoints(tmp_path / "run") == []


# Steps that aren't finite


def spoil_images(settings, tmp_path, slices: dict[str, list[int]]) -> None:
    """Make decoded slices NaN, as a damaged store would."""
    run(**settings(max_train_steps=1, output_dir=str(tmp_path / "first")))
    for about in (tmp_path / "cache").glob("*/case.json"):
        bad = slices.get(json.loads(about.read_text())["name"])
        if bad:
            image = np.load(about.parent / "image.npy")
            image[bad] = np.nan
            np.save(about.parent / "image.npy", image)


@pytest.mark.slow
def test_a_nan_image_is_skipped_and_its_case_named(settings, tmp_path, caplog):
    spoil_images(settings, tmp_path, {"case0002": [1]})
    caplog.clear()
    run(**settings(max_train_steps=12, per_device_train_batch_size=2, ema_decay=0.5))
    output_text = [line for line in caplog.messages if "skipped: the loss is nan" in line]
    assert len(output_text) == 1  # twelve steps are one epoch
    assert "case0002" in output_text[0]
    assert log_of(tmp_path / "run")[-1]["skipped"] == "1"
    assert all(tensor.isfinite().all() for tensor in adapter_of(tmp_path / "run").values())


@pytest.mark.slow
def test_images_of_nan_alone_stop_the_run_and_name_cases(settings, tmp_path):
    spoil_images(settings, tmp_path, {f"case{number:04d}": [0, 1, 2, 3] for number in range(6)})
    with pytest.raises(ValueError, match=r"stopped at step 4: the loss is nan.*case000.*max_skipped_steps is 3"):
        run(**settings(max_train_steps=12, max_skipped_steps=3))
    with pytest.raises(ValueError, match="without one finite step"):
        run(**settings(max_train_steps=3))
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_step_skipped_changes_nothing_but_the_schedule(settings, monkeypatch):
    loss, step = training_step.segmentation_loss, training.take_step
    calls, seen = [0], {}

    def bad_third(*args, **kwargs):
        calls[0] += 1
        parts = loss(*args, **kwargs)
        return parts._replace(loss=parts.loss * float("inf")) if calls[0] == 3 else parts

    def copy_of(state) -> dict[str, torch.Tensor]:
        tensors = {f"weight {index}": weight for index, weight in enumerate(state.trained)}
        tensors |= {f"average {index}": value for index, value in state.average.state_dict()["averages"].items()}
        for index, moments in state.optimizer.state_dict()["state"].items():
            tensors |= {f"{name} {index}": value for name, value in moments.items()}
        return {name: value.detach().clone() for name, value in tensors.items()}

    def watched(state, batches):
        before = copy_of(state)
        row = step(state, batches)
        after = copy_of(state)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        seen[row["step"]] = same, state.schedule.last_epoch
        return row

    monkeypatch.setattr(training_step, "segmentation_loss", bad_third)
    monkeypatch.setattr(training, "take_step", watched)
    ended = run(**settings(ema_decay=0.9))
    assert {number for number, (same, _) in seen.items() if same} == {3}
    assert [place for _, place in seen.values()] == [1, 2, 3, 4, 5, 6]
    assert [row["skipped"] for row in ended.log] == [0, 0, 1, 1, 1, 1]


# The best validation, and averages


@pytest.mark.slow
def test_the_best_adapter_is_kept_besides_the_last_one(settings, tmp_path, caplog):
    ended = run(**settings(max_train_steps=12, num_validation_cases=2, eval_steps=2, checkpointing_steps=11))
    scores = {row["step"]: row["validation_dice"] for row in ended.log if "validation_dice" in row}
    assert list(scores) == [2, 4, 6, 8, 10, 12]
    about = json.loads((tmp_path / "run" / "best" / "validation.json").read_text())
    assert about["validation_dice"] == max(scores.values())
    assert about["cases"] == 2
    assert about["step"] == min(step for step, score in scores.items() if score == max(scores.values()))
    assert f"step {about['step']}: {tmp_path / 'run' / 'best'}" in caplog.text
    weights = adapter_of(tmp_path / "run")
    trained = dict(ended.model.named_parameters())
    name, tensor = next((name, tensor) for name, tensor in weights.items() if "lora_B" in name)
    key = name.removeprefix("base_model.model.").replace("lora_B", "lora_B.default")
    assert torch.equal(trained[key], tensor)


@pytest.mark.slow
def test_early_stopping_saves_the_adapter_of_the_best_validation(settings, tmp_path, monkeypatch):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    validate = training.validate
    monkeypatch.setattr(training, "validate", lambda *args: validate(*args)._replace(dice=next(scores)))
    changes = {"max_train_steps": 20, "num_validation_cases": 1, "eval_steps": 2, "early_stopping_patience": 2}
    ended = run(**settings(checkpointing_steps=4, save_best=False, **changes))
    assert ended.log[-1]["step"] == 8
    assert_same(tmp_path / "run", tmp_path / "run" / "checkpoint-4")
    with torch.no_grad():
        for name, parameter in ended.model.named_parameters():
            if "lora_B" in name:
                kept = adapter_of(tmp_path / "run")["base_model.model." + name.replace(".default", "")]
                assert torch.equal(parameter, kept)


@pytest.mark.slow
def test_without_save_best_there_is_none(settings, tmp_path):
    run(**settings(num_validation_cases=1, eval_steps=3, save_best=False))
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.slow
def test_averages_are_validated_and_saved_and_checkpoints_hold_both(settings, tmp_path):
    plain = run(**settings(output_dir=str(tmp_path / "plain"), checkpointing_steps=5))
    ended = run(**settings(ema_decay=0.9, checkpointing_steps=5, num_validation_cases=0))
    assert [row["loss"] for row in ended.log] == [row["loss"] for row in plain.log]
    # The weights trained are the same, what is saved isn't.
    assert_same(tmp_path / "run" / "checkpoint-5", tmp_path / "plain" / "checkpoint-5")
    content = json.loads((tmp_path / "run" / "checkpoint-5" / "training_state.json").read_text())
    assert content["values"]["average/updates"] == content["schedule"]["step"] == 5
    assert "average/averages/0" in load_file(tmp_path / "run" / "checkpoint-5" / "training_state.safetensors")
    name = next(name for name in adapter_of(tmp_path / "run") if "lora_B" in name)
    assert not torch.equal(adapter_of(tmp_path / "run")[name], adapter_of(tmp_path / "plain")[name])
    key = name.removeprefix("base_model.model.").replace("lora_B", "lora_B.default")
    assert torch.equal(dict(ended.model.named_parameters())[key], adapter_of(tmp_path / "run")[name])
