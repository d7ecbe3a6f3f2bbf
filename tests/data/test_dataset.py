"""Label maps as files hold them, and what tells that a file has changed."""

import os

import numpy as np
import pytest

from samed_hf import SamedImageProcessor
from samed_hf.data.cache import CaseStore
from samed_hf.data.dataset import as_labels, renumber
from samed_hf.data.file_stamps import file_stamps
from samed_hf.data.layouts import read_data

from ..data_folders import make_scans, save_nifti, write_nnunet


@pytest.mark.parametrize("noise", [0.00005, -0.0009])
def test_noise_of_a_slope_is_rounded(noise):
    label = as_labels("a", np.array([[0.0, 1.0, 3.0]]) + noise)
    assert (label.tolist(), label.dtype) == ([[0, 1, 3]], np.uint8)


@pytest.mark.parametrize("value", [3.002, -0.6, 65536.0, np.nan])
def test_values_between_labels_are_refused(value):
    with pytest.raises(ValueError, match="scan holds labels from"):
        as_labels("scan", np.array([[0.0, value]]))


def test_several_values_of_one_label_and_an_ignored_one():
    label = renumber("a", np.array([0, 4, 5, 9], np.uint8), {0: 0, 4: 1, 5: 1, 9: 255})
    assert (label.tolist(), label.dtype) == ([0, 1, 1, 255], np.uint8)
    with pytest.raises(ValueError, match="holds the label value 7: expected one of 0, 4"):
        renumber("a", np.array([7]), {0: 0, 4: 1})


@pytest.mark.parametrize("place", [10, 300_000])
def test_a_file_of_the_same_size_and_time_has_another_stamp(tmp_path, place):
    path, content = tmp_path / "a", bytearray(300_100)
    stamps = []
    for value in (0, 1):
        content[place] = value
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        stamps += file_stamps(path)
    assert stamps[0][:3] == stamps[1][:3]
    assert stamps[0] != stamps[1]


def test_a_replaced_label_map_is_decoded_again(tmp_path):
    root = write_nnunet(tmp_path / "data", make_scans(count=1))
    path = root / "labelsTr" / "case_00.nii.gz"
    path.unlink()
    dataset = root / "dataset.json"
    dataset.write_text(dataset.read_text().replace(".nii.gz", ".nii"))
    save_nifti(root / "imagesTr" / "case_00_0000.nii", np.zeros((4, 4, 2), np.int16))
    sums = []
    for value in (1, 2):
        save_nifti(root / "labelsTr" / "case_00.nii", np.full((4, 4, 2), value, np.uint8))
        os.utime(root / "labelsTr" / "case_00.nii", ns=(10**18, 10**18))
        store = CaseStore(read_data(root), SamedImageProcessor(), tmp_path / "cache")
        store.prepare(["case_00"])
        sums.append(int(store.label("case_00").sum()))
    assert sums == [32, 64]


def test_the_voxels_of_a_detached_header_count(tmp_path):
    import SimpleITK as sitk

    from samed_hf.data.sources import ScanSource

    keys = []
    for value in (0, 1):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), value, np.uint8)), str(tmp_path / "a.mhd"))
        for path in tmp_path.iterdir():
            os.utime(path, ns=(10**18, 10**18))
        keys.append(ScanSource("a", (tmp_path / "a.mhd",), tmp_path / "a.mhd", 1, (0, 1)).cache_key())
    assert [keys[0][0][0], keys[0][1][0]] == [str(tmp_path / "a.mhd"), str(tmp_path / "a.raw")]
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
