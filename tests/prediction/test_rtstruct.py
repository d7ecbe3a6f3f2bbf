"""`samed-hf predict --format rtstruct`."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from samed_hf import SamedImageProcessor
from samed_hf.cli import main
from samed_hf.data import read_data
from samed_hf.volumes import read_volume
from samed_hf.volumes.dicom import read_label_map

from ..dicom_files import OBLIQUE, stored_scan, write_enhanced, write_series


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv)])


@pytest.fixture
def scan(tmp_path):
    stored = ndimage.gaussian_filter(np.random.default_rng(0).normal(1000, 400, (40, 36, 5)), 1).astype(np.uint16)
    write_series(tmp_path / "data" / "patient" / "ct", stored, orientation=OBLIQUE)
    return tmp_path / "data" / "patient" / "ct"


@pytest.mark.slow
def test_structure_sets_have_the_labels_of_the_other_formats(tiny_adapter, scan, tmp_path):
    rt, nifti = tmp_path / "rt", tmp_path / "nifti"
    assert run(tiny_adapter, scan, "--output", rt, "--format", "rtstruct", "--per_class", "--probabilities") == 0
    assert run(tiny_adapter, scan, "--output", nifti, "--format", "nii.gz", "--no_preview") == 0
    expected = np.asarray(nib.load(nifti / "ct.nii.gz").dataobj)
    assert np.unique(expected).tolist() == [0, 1, 2]
    series = read_volume(scan)
    np.testing.assert_array_equal(read_label_map(rt / "ct.rtstruct.dcm", series, ["disc", "bar"])[0].array, expected)
    files = json.loads((rt / "ct" / "statistics.json").read_text())["files"]
    assert {"ct.rtstruct.dcm", "ct/disc.rtstruct.dcm", "ct/bar.rtstruct.dcm", "ct/probabilities.nii.gz"} < set(files)
    mask, _ = read_label_map(rt / "ct" / "bar.rtstruct.dcm", series, ["bar"])
    np.testing.assert_array_equal(mask.array, expected == 2)
    content = (rt / "ct.rtstruct.dcm").read_bytes()
    assert run(tiny_adapter, scan, "--output", rt, "--format", "rtstruct") == 2
    assert run(tiny_adapter, scan, "--output", rt, "--format", "rtstruct", "--overwrite") == 0
    assert (rt / "ct.rtstruct.dcm").read_bytes() == content
    assert not (rt / "ct" / "bar.rtstruct.dcm").exists()


@pytest.mark.parametrize("form", ["rtstruct", "dcm"])
def test_a_prediction_can_be_trained_on(tiny_adapter, scan, tmp_path, form):
    assert run(tiny_adapter, scan, "--output", tmp_path / "data" / "labels", "--format", form, "--no_preview") == 0
    data = read_data(tmp_path / "data")
    assert data.train == ["patient"]
    assert list(data.id2label.values()) == ["background", "disc", "bar"]
    case = data.read_case("patient", SamedImageProcessor(image_size=32, orientation=None))
    name = "ct.rtstruct.dcm" if form == "rtstruct" else "ct.dcm"
    voxels = json.loads((tmp_path / "data" / "labels" / "ct" / "statistics.json").read_text())["labels"]
    assert np.bincount(case.label.ravel())[1:].tolist() == [voxels["disc"]["voxels"], voxels["bar"]["voxels"]]
    assert pydicom.dcmread(tmp_path / "data" / "labels" / name).PatientID == "4711"


def test_time_points_are_refused_or_chosen(tiny_adapter, tmp_path, capsys):
    slices = stored_scan().shape[2]

    def time(dataset):
        for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient[2] = 50 + 2.5 * (index % slices)
            group.FrameContentSequence[0].TemporalPositionIndex = index // slices + 1

    stored = np.concatenate([stored_scan()] * 2, axis=2)
    path = write_enhanced(tmp_path / "heart.dcm", stored, change=time)
    output = tmp_path / "rt"
    assert run(tiny_adapter, path, "--output", output, "--format", "rtstruct") == 2
    assert "heart.dcm has several volumes as frames, which .rtstruct.dcm cannot hold" in capsys.readouterr().err
    assert run(tiny_adapter, path, "--output", output, "--format", "rtstruct", "--frames", "1", "--no_preview") == 0
    assert (output / "heart.rtstruct.dcm").exists()


def test_a_scan_that_is_no_dicom_is_refused(tiny_adapter, tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 3), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert run(tiny_adapter, tmp_path / "a.nii.gz", "--output", tmp_path / "out", "--format", "rtstruct") == 2
    assert "a.nii.gz" in capsys.readouterr().err
