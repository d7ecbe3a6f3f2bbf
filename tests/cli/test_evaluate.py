"""`samed-hf evaluate` over many cases: each is read once, one that fails, processes and shards."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samed_hf.cli import main
from samed_hf.data.dataset import CaseDataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of nnU-Net's layout, whose cases differ in size; none but those of test are read."""
    root = tmp_path_factory.mktemp("set") / "Dataset001_shapes"
    generator = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / kind).mkdir(parents=True)
    for index, (name, kind) in enumerate([("train", "Tr"), *((name, "Ts") for name in "abcde")]):
        label = np.zeros((24, 20, 2 + index), np.uint8)
        label[4:12, 4:12], label[16:20] = 1, 2
        image = (label * 100 + generator.normal(0, 20, label.shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.diag([1, 1, 3, 1])), root / f"images{kind}" / f"{name}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, np.diag([1, 1, 3, 1])), root / f"labels{kind}" / f"{name}.nii.gz")
    labels = {"background": 0, "disc": 1, "bar": 2}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def run(adapter, data, out, *flags):
    return main(["evaluate", str(adapter), "--data", str(data), "--output", str(out), *flags])


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.slow
def test_each_case_is_read_once(tiny_adapter, data, tmp_path, monkeypatch):
    read, seen = CaseDataset.read_raw, Counter()

    def count(self, name, processor):
        seen[name] += 1
        return read(self, name, processor)

    monkeypatch.setattr(CaseDataset, "read_raw", count)
    assert run(tiny_adapter, data, tmp_path) == 0
    assert seen == dict.fromkeys("abcde", 1)


@pytest.mark.slow
def test_a_case_that_fails_is_listed_and_the_others_are_scored(tiny_adapter, data, tmp_path, capsys):
    assert run(tiny_adapter, data, tmp_path / "all") == 0
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "labelsTs" / "b.nii.gz").write_bytes(b"damaged")
    assert run(tiny_adapter, broken, tmp_path / "scores") == 1
    assert "1 of 5 cases failed:\nerror: b: " in capsys.readouterr().err
    whole, metrics = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("all", "scores"))
    assert list(metrics["failed"]) == ["b"]
    assert "b.nii.gz" in metrics["failed"]["b"]
    del whole["per_case"]["b"]
    assert metrics["per_case"] == whole["per_case"]
    assert metrics["per_class"]["disc"]["cases"] == 4
    dice = [case["disc"]["dice"] for case in whole["per_case"].values()]
    assert metrics["per_class"]["disc"]["dice"] == pytest.approx(sum(dice) / 4)
    assert not (tmp_path / "scores" / "b.png").exists()
    assert "failed" not in whole


def test_nothing_is_written_if_all_cases_fail(tiny_adapter, data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "broken")
    for path in (broken / "labelsTs").iterdir():
        path.write_bytes(b"damaged")
    assert run(tiny_adapter, broken, tmp_path / "scores") == 2
    assert "5 of 5 cases failed" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["strict", "samed"])
def test_shards_give_the_scores_of_one_run(tiny_adapter, data, tmp_path, protocol):
    flags = ["--protocol", protocol]
    assert run(tiny_adapter, data, tmp_path / "one", *flags) == 0
    out = tmp_path / "out"
    for shard in ("3/3", "1/3"):
        assert run(tiny_adapter, data, out, *flags, "--shard", shard) == 0
    assert not (out / "metrics.json").exists()
    assert run(tiny_adapter, data, out, *flags, "--shard", "2/3") == 0
    names = [
        {case["name"] for case in json.loads((out / f"metrics-{i}-of-3.json").read_text())["cases"]} for i in (1, 2, 3)
    ]
    assert names == [{"e"}, {"a", "d"}, {"b", "c"}]  # of 3 to 7 slices
    found = contents(out)
    assert {name: found[name] for name in found if "-of-" not in name} == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_shard_under_another_protocol_is_not_merged(tiny_adapter, data, tmp_path):
    assert run(tiny_adapter, data, tmp_path, "--shard", "1/2", "--protocol", "samed") == 0
    assert run(tiny_adapter, data, tmp_path, "--shard", "2/2") == 0
    assert not (tmp_path / "metrics.json").exists()
    assert run(tiny_adapter, data, tmp_path, "--shard", "1/2") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"] == "strict"


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tiny_adapter, data, tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "labelsTs" / "b.nii.gz").write_bytes(b"damaged")
    assert run(tiny_adapter, broken, tmp_path / "one") == 1
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", f"--main_process_port={port}"]
    command = ["evaluate", str(tiny_adapter), "--data", str(broken), "--output", str(tmp_path / "two")]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, *launch, "-m", "samed_hf", *command],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: b: ") == 1
    assert done.stdout.count("test cases") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_metrics_are_chosen(tiny_adapter, data, tmp_path, capsys):
    flags = ("--metrics", "dice,assd,volume,lesions", "--lesion_min_iou", "0.1")
    assert run(tiny_adapter, data, tmp_path, *flags) == 0
    keys = ["dice", "assd", *(f"{name}_ml" for name in ("volume", "label_volume", "volume_error"))]
    keys += ["relative_volume_error", "lesion_tp", "lesion_fp", "lesion_fn", "lesion_f1"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["mean"]) == keys
    assert metrics["lesion_min_iou"] == 0.1
    assert "nsd_tolerance_mm" not in metrics
    assert metrics["per_case"]["a"]["disc"]["label_volume_ml"] == pytest.approx(64 * 3 * 3 / 1000)
    low, high = metrics["intervals"]["mean"]["dice"]
    assert low <= metrics["mean"]["dice"] <= high
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[0] == ",".join(["case", "label", *keys])
    assert len(rows) == 1 + 5 * 2
    printed = capsys.readouterr().out
    assert "ASSD (mm)" in printed
    assert f"95% intervals of the mean over cases: DSC {low:.4f} to {high:.4f}" in printed


@pytest.mark.slow
def test_calibration_is_that_of_the_probabilities_that_predict_writes(tiny_adapter, data, tmp_path):
    assert run(tiny_adapter, data, tmp_path / "scores", "--metrics", "dice,calibration") == 0
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    scan = data / "imagesTs" / "c_0000.nii.gz"
    assert main(["predict", str(tiny_adapter), str(scan), "--output", str(tmp_path / "out"), "--probabilities"]) == 0
    softmax = nib.load(next((tmp_path / "out").rglob("probabilities*"))).get_fdata()
    label = np.asarray(nib.load(data / "labelsTs" / "c.nii.gz").dataobj)
    found = metrics["per_case"]["c"]["bar"]
    assert found["brier"] == pytest.approx(np.square(softmax[..., 2] - (label == 2)).mean(), abs=1e-5)
    gaps = np.bincount(
        (np.ceil(softmax[..., 2] * 15).ravel() - 1).clip(0).astype(int), ((label == 2) - softmax[..., 2]).ravel()
    )
    assert found["ece"] == pytest.approx(np.abs(gaps).sum() / label.size, abs=1e-3)
    low, high = metrics["intervals"]["mean"]["brier_near"]
    assert low <= metrics["mean"]["brier_near"] <= high
    rows = (tmp_path / "scores" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "case,label,dice,ece,brier,ece_near,brier_near"
    assert len(rows) == 1 + 5 * 2


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--metrics", "dice,kappa"], "kappa"),
        (["--metrics", "nsd", "--protocol", "samed"], "nsd"),
        (["--metrics", "nsd", "--nsd_tolerance_mm", "disc=1"], "bar"),
        (["--nsd_tolerance_mm", "wide"], "nsd_tolerance_mm"),
    ],
)
def test_metrics_that_dont_exist(tiny_adapter, data, tmp_path, capsys, flags, named):
    assert run(tiny_adapter, data, tmp_path / "out", *flags) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
