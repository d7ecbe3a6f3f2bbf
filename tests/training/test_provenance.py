"""Provenance of a run, and a second run from its settings file."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import samed_hf
from samed_hf.cli import main
from samed_hf.data import make_processor
from samed_hf.data.layouts.synapse import write_slice
from samed_hf.diagnostics.machine import read_requirements
from samed_hf.training.arguments import SamedTrainingArguments
from samed_hf.training.checkpointing.provenance import (
    code_revision,
    compare_provenance,
    data_fingerprint,
    find_provenance,
    package_versions,
)
from samed_hf.training.data import open_store, read_training_data

from ..conftest import TINY_SIZE


def fingerprint(data_dir, output_dir):
    args = SamedTrainingArguments(data_dir=str(data_dir), output_dir=str(output_dir), image_size=TINY_SIZE)
    data = read_training_data(args)
    return data_fingerprint(data, open_store(args, data, make_processor(args, data), decode=True))


def test_the_fingerprint_depends_on_content_not_on_paths(tiny_data, tmp_path):
    moved = shutil.copytree(tiny_data, tmp_path / "elsewhere")
    assert fingerprint(moved, tmp_path / "one") == fingerprint(tiny_data, tmp_path / "two")
    image, label = np.full((48, 48), 0.5, np.float32), np.zeros((48, 48), np.uint8)
    write_slice(moved, "case0000_slice000", image, label)
    changed = fingerprint(moved, tmp_path / "three")
    assert changed != fingerprint(tiny_data, tmp_path / "two")
    label[3, 4] = 1
    write_slice(moved, "case0000_slice000", image, label)
    assert fingerprint(moved, tmp_path / "four") != changed


def test_the_record_tells_which_cases_are_trained_on_and_in_which_order(tiny_data, tiny_model, tmp_path):
    args = SamedTrainingArguments(data_dir=str(tiny_data), output_dir=str(tmp_path / "run"), image_size=TINY_SIZE)
    data = read_training_data(args)
    store = open_store(args, data, make_processor(args, data), decode=True)
    records = [find_provenance(data, store, tiny_model, torch.device("cpu"))]
    data.train.reverse()
    records.append(find_provenance(data, store, tiny_model, torch.device("cpu")))
    data.train[0], data.validation[0] = data.validation[0], data.train[0]
    records.append(find_provenance(data, store, tiny_model, torch.device("cpu")))
    assert len({record["training_cases"] for record in records}) == 3
    assert len({record["data_fingerprint"] for record in records}) == 1
    assert len({record["base_model"] for record in records}) == 1
    assert compare_provenance(*records[:2]) == ["the choice or the order of the training cases"]


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_codes_revision_is_that_of_its_own_checkout(tmp_path):
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert code_revision(package) is None
    git(tmp_path / "repository", "init", "-q")
    assert code_revision(package) is None  # a checkout around it, of something else
    git(tmp_path / "repository", "add", ".")
    git(tmp_path / "repository", "commit", "-q", "-m", "first")
    found = code_revision(package)
    assert len(found["revision"]) == 40
    assert found["changed"] is False
    (package / "__init__.py").write_text("more")
    assert code_revision(package) == found | {"changed": True}


def test_versions_are_those_installed():
    versions = package_versions()
    assert versions["torch"] == torch.__version__
    assert {"python", "samed_hf", "peft", "SimpleITK"} <= set(versions)
    assert "selenium" not in versions  # of an extra


def test_requirements_are_setup_cfgs(tmp_path):
    path = tmp_path / "setup.cfg"
    path.write_text(
        "[options]\ninstall_requires =\n    torch>=2.6\n    numpy\n"
        '    bits>=1,<2; platform_system != "Darwin"\n[options.extras_require]\nmore =\n    other\n'
    )
    assert read_requirements(path) == {"torch": ">=2.6", "numpy": "", "bits": ">=1,<2"}
    own = read_requirements(Path(samed_hf.__file__).parents[1] / "setup.cfg")
    assert {"torch", "transformers"} <= set(own)
    assert not {"bitsandbytes", "tensorboard"} & set(own)  # those of extras


def test_runs_are_compared_in_words():
    one = {"data_fingerprint": "a", "code": {"revision": "x", "changed": False}, "versions": {"torch": "1", "old": "1"}}
    two = {"data_fingerprint": "b", "code": {"revision": "y", "changed": False}, "versions": {"torch": "2", "new": "1"}}
    assert compare_provenance(one, two) == [
        "the data",
        "this package's code (revision y instead of x)",
        "the packages (torch 2 instead of 1)",
    ]
    assert compare_provenance(one, one) == []
    assert compare_provenance({}, two) == []


@pytest.fixture(scope="module")
def first_run(tiny_sam, tiny_data, tmp_path_factory):
    """A run with settings left to their defaults, cut short by `max_train_steps`."""
    folder = tmp_path_factory.mktemp("first") / "run"
    flags = [
        "--model_name_or_path",
        tiny_sam,
        "--data_dir",
        tiny_data,
        "--image_size",
        TINY_SIZE,
        "--report_to",
        "none",
    ]
    flags += ["--per_device_train_batch_size", 4, "--max_train_steps", 6, "--lr_warmup_steps", 2, "--seed", 3]
    assert main(["train", *map(str, [*flags, "--output_dir", folder])]) == 0
    return folder


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_second_run_from_the_file_gives_the_same_adapter(first_run, tmp_path, capsys):
    again = tmp_path / "again"
    config = str(first_run / "training_settings.json")
    assert main(["train", "--config", config, "--output_dir", str(again)]) == 0
    one, two = adapter(first_run), adapter(again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "differs" not in capsys.readouterr().out
    rates = [(folder / "training_log.csv").read_text().splitlines()[-1] for folder in (first_run, again)]
    assert rates[0].split(",")[1] == rates[1].split(",")[1]
    other = tmp_path / "other"
    assert main(["train", "--config", config, "--output_dir", str(other), "--seed", "4"]) == 0
    assert any(not torch.equal(one[name], tensor) for name, tensor in adapter(other).items())


@pytest.mark.slow
def test_differences_from_the_run_of_the_config_are_printed(first_run, tmp_path, capsys):
    settings = json.loads((first_run / "training_settings.json").read_text())
    settings["run"]["data_fingerprint"] = "sha256:another"
    settings["run"]["versions"]["torch"] = "1.0"
    settings["num_processes"] = 2
    (tmp_path / "config.json").write_text(json.dumps(settings))
    flags = ["--config", str(tmp_path / "config.json"), "--output_dir", str(tmp_path / "run")]
    assert main(["train", *flags, "--max_train_steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "differs     from the run of its config: 1 processes instead of 2" in printed
    assert "config: the data\n" in printed
    assert f"torch {torch.__version__} instead of 1.0" in printed


@pytest.mark.slow
def test_the_provenance_is_written_at_the_start_without_paths(first_run, tiny_data):
    run = json.loads((first_run / "training_settings.json").read_text())["run"]
    assert run["data_fingerprint"].startswith("sha256:")
    assert run["base_model"].startswith("sha256:")
    assert run["machine"]["device"] == "cpu"
    assert run["optimizer_steps"] == 6
    assert str(tiny_data) not in json.dumps(run)


def test_an_unknown_key_ends_the_command_with_one_line(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("learning_rat: 1e-3\n")
    assert main(["train", "--config", str(path)]) == 2
    assert "unknown key 'learning_rat': the nearest setting is 'learning_rate'" in capsys.readouterr().err
