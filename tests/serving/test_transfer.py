"""Scans as bytes: what is unpacked elsewhere is the same scan without the names of its files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from samed_hf.serving.transfer import pack
from samed_hf.volumes import find_scans, read_scan

from ..dicom_files import write_series
from .served import smooth, write_scan


def test_a_packed_scan_has_no_names(tmp_path):
    write_scan(tmp_path / "Doe^Jane.nii.gz")
    write_scan(tmp_path / "pair_0000.nii.gz")
    write_scan(tmp_path / "pair_0001.nii.gz", seed=1)
    write_series(tmp_path / "series", smooth((20, 24, 3)).astype(np.uint16))
    scans = {scan.name: scan for scan in find_scans([tmp_path / "series", tmp_path / "Doe^Jane.nii.gz"])}
    scans |= {scan.name: scan for scan in find_scans(sorted(tmp_path.glob("pair*")), num_channels=2)}
    assert set(scans) == {"series", "Doe^Jane", "pair"}
    for name, scan in scans.items():
        packed = pack(scan)
        assert str(tmp_path) not in repr(packed.scan)
        assert name not in repr(packed.scan)
        (directory := tmp_path / f"unpacked-{name}").mkdir()
        channels = 2 if name == "pair" else 1
        found = read_scan(packed.unpack(directory), num_channels=channels)
        expected = read_scan(scan, num_channels=channels)
        np.testing.assert_array_equal(found.array, expected.array)
        np.testing.assert_array_equal(found.affine, expected.affine)


def test_a_header_without_voxels_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 8, 8), np.int16)), str(tmp_path / "scan.mhd"))
    (scan,) = find_scans(tmp_path / "scan.mhd")
    with pytest.raises(ValueError, match=r"\.mhd .* convert"):
        pack(scan)
