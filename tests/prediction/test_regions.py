"""Regions and the ignore label from a data set of nnU-Net to scores, statistics and masks."""

import json

import nibabel as nib
import numpy as np
import pytest

from samed_hf.cli.parser import main
from samed_hf.inference.statistics import part_names

from ..data_folders import save_nifti, write_nnunet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set of four channels with nested regions and an ignored strip, and an adapter with a projection."""
    root, generator = tmp_path_factory.mktemp("regions"), np.random.default_rng(0)
    x, y = np.mgrid[:40, :36]
    label = np.zeros((40, 36, 3), np.uint8)
    radius = (x - 20) ** 2 + (y - 18) ** 2
    label[radius < 200], label[radius < 80], label[:, :4] = 1, 2, 3
    scans = {f"p{index}": (generator.integers(0, 20, label.shape).astype(np.int16), label) for index in range(3)}
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    names = {str(index): f"c{index}" for index in range(4)}
    write_nnunet(root / "data", scans, labels=labels, regions_class_order=[1, 2], channel_names=names)
    for name, (image, _) in scans.items():
        for index in range(4):
            channel = image + 100 * (label == 1 if index < 2 else label == 2).astype(np.int16)
            save_nifti(root / "data" / "imagesTr" / f"{name}_{index:04d}.nii.gz", channel)
    settings = ["--max_train_steps", "8", "--image_size", "64", "--num_validation_cases", "1", "--seed", "1"]
    settings += ["--checkpointing_steps", "0", "--per_device_train_batch_size", "6"]
    assert not main(
        ["train", "--data_dir", str(root / "data"), "--output_dir", str(root / "a"), "--channel_projection", *settings]
    )
    return root


@pytest.mark.slow
def test_scores_are_of_whole_regions_without_ignored_voxels(trained):
    assert not main(["evaluate", str(trained / "a"), "--data", str(trained / "data"), "--output", str(trained / "e")])
    scores = json.loads((trained / "e" / "metrics.json").read_text())
    (name,) = scores["per_case"]
    scan = trained / "scans"
    scan.mkdir()
    for path in (trained / "data" / "imagesTr").glob(f"{name}_*"):
        (scan / path.name).write_bytes(path.read_bytes())
    assert not main(["predict", str(trained / "a"), str(scan), "--output", str(trained / "p"), "--per_class"])
    truth = np.asarray(nib.load(trained / "data" / "labelsTr" / f"{name}.nii.gz").dataobj)
    found = np.asarray(nib.load(trained / "p" / f"{name}.nii.gz").dataobj)
    statistics = json.loads((trained / "p" / name / "statistics.json").read_text())
    for region, members in (("whole", [1, 2]), ("core", [2])):
        mask = np.isin(found, members)
        assert statistics["labels"][region]["voxels"] == mask.sum() > 0
        stored = np.asarray(nib.load(trained / "p" / name / f"{region}.nii.gz").dataobj)
        np.testing.assert_array_equal(stored, mask)
        known, expected = truth != 3, np.isin(truth, members)
        dice = 2 * (mask & expected & known).sum() / ((mask & known).sum() + (expected & known).sum())
        assert scores["per_case"][name][region]["dice"] == pytest.approx(dice, abs=1e-9)
    assert any("1 whole (rest), 2 core" in note for note in statistics["notes"])


@pytest.mark.slow
def test_other_regions_or_a_selection_of_labels_are_refused(trained, capsys):
    arguments = [
        str(trained / "a"),
        "--data",
        str(trained / "plain"),
        "--output",
        str(trained / "f"),
        "--split",
        "train",
    ]
    plain = json.loads((trained / "data" / "dataset.json").read_text()) | {
        "labels": {"background": 0, "whole": 1, "core": 2}
    }
    (trained / "plain").mkdir()
    (trained / "plain" / "dataset.json").write_text(json.dumps(plain))
    for directory in ("imagesTr", "labelsTr"):
        (trained / "plain" / directory).symlink_to(trained / "data" / directory)
    assert main(["evaluate", *arguments]) == 2
    assert "with the regions {}" in capsys.readouterr().err
    scan = str(trained / "data" / "imagesTr")
    assert main(["predict", str(trained / "a"), scan, "--output", str(trained / "g"), "--labels", "core"]) == 2
    assert "labels is given" in capsys.readouterr().err


def test_names_of_parts():
    regions = {1: ("whole", [1, 2]), 2: ("core", [2])}
    assert part_names(regions, {1: "whole", 2: "core"}) == {1: "whole (rest)", 2: "core"}
    assert part_names({}, {1: "whole"}) == {1: "whole"}
