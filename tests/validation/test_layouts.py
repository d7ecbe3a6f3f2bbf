"""What validation says of files that a layout doesn't use, and of masks of classes."""

import json

import numpy as np
import pytest
from PIL import Image

from samed_hf.cli.parser import main
from samed_hf.data import DataArguments, make_processor, read_data
from samed_hf.validation import validate_data

from ..data_folders import make_scans, save_nifti

SCANS = make_scans(3)


def problems(root, kind):
    data = read_data(root)
    found = validate_data(data, make_processor(DataArguments(data_dir="."), data), images_per_split=0)
    return [problem.line for problem in found.problems if problem.kind == kind]


def test_files_in_other_directories_are_counted(tmp_path):
    for index, (image, label) in enumerate(SCANS.values(), 1):
        save_nifti(tmp_path / f"sub-0{index}" / "anat" / f"sub-0{index}_T1w.nii.gz", image)
        save_nifti(tmp_path / "derivatives" / "manual" / f"sub-0{index}_dseg.nii.gz", label)
        save_nifti(tmp_path / "derivatives" / "maps" / f"sub-0{index}_probseg.nii.gz", label)
    (line,) = problems(tmp_path, "unused")
    assert "derivatives/maps contains 3 files that no case uses: sub-01_probseg.nii.gz" in line


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_overlaps_of_masks_are_counted(tmp_path, suffix):
    for path, rows in (("images/x", 20), ("masks/a/x", 20), ("masks/b/x", 5)):
        array = np.zeros((20, 24, 2), np.uint8)
        array[:rows] = 1 + np.arange(2, dtype=np.uint8) * (path == "images/x")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".png":
            Image.fromarray(array[..., 0]).save(tmp_path / f"{path}.png")
        else:
            save_nifti(tmp_path / f"{path}.nii.gz", array)
    (line,) = problems(tmp_path, "overlap")
    assert f"covers {120 if suffix == '.png' else 240} voxels" in line


@pytest.mark.slow
def test_the_command_says_what_the_files_are(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("a", "b"):
        for name, (image, label) in SCANS.items():
            save_nifti(tmp_path / part / name / "ct.nii.gz", image)
            save_nifti(tmp_path / part / name / "organs_seg.nii.gz", label)
        (tmp_path / part / "labels.json").write_text(json.dumps({"background": 0, "disc": 1, "bar": 2}))
    assert main(["validate", "a", "b", "--output", "out"]) in (0, 1)
    out = "".join(capsys.readouterr())
    assert "files       a: image */ct.nii.gz, label */organs_seg.nii.gz; b: image" in out
    assert "--data_dir a b" in out
