"""How often the headers of DICOM files are read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from samed_hf.cli import main
from samed_hf.volumes import find_scans, read_scan
from samed_hf.volumes.dicom import kept_headers

from ..dicom_files import write_enhanced, write_series


@pytest.fixture
def reads(monkeypatch):
    """Counts the files that are read, without and with their pixels."""
    seen = Counter()
    read = pydicom.dcmread

    def count(path, *args, **options):
        seen[Path(path).name, "header" if options.get("stop_before_pixels") else "pixels"] += 1
        return read(path, *args, **options)

    monkeypatch.setattr(pydicom, "dcmread", count)
    monkeypatch.setattr(kept_headers, "_headers", kept_headers._Headers())
    return seen


@pytest.mark.parametrize("flags", [[], ["--format", "nii.gz"]])
def test_predict_reads_each_header_once(tiny_adapter, tmp_path, reads, flags):
    for index, name in enumerate("ab"):
        write_series(tmp_path / "scans" / name, np.full((20, 18, 3), index, np.uint16), number=index)
    files = [path for path in (tmp_path / "scans").rglob("*") if path.is_file()]
    assert len(files) == 6
    # Two inputs, of which one is in the other.
    argv = [tmp_path / "scans", tmp_path / "scans" / "a", "--output", tmp_path / "out", "--no_preview", *flags]
    assert main(["predict", str(tiny_adapter), *map(str, argv)]) == 0
    times = Counter(file.name for file in files)
    expected = {(name, kind): count for name, count in times.items() for kind in ("header", "pixels")}
    assert {key: count for key, count in reads.items() if key[0] in times} == expected


def test_a_replaced_file_is_read_again(tmp_path, reads):
    (file,) = write_series(tmp_path / "scan", np.zeros((4, 4, 1), np.uint16))
    for intercept in (0, -1000):
        header = pydicom.dcmread(file)
        header.RescaleIntercept = intercept
        header.save_as(file)
        (scan,) = find_scans(tmp_path / "scan")
        assert read_scan(scan).array.max() == intercept


def test_the_headers_that_are_kept_are_bounded(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(kept_headers, "_MAX_IMAGES", 4)
    for name in "ab":
        write_series(tmp_path / name, np.zeros((4, 4, 3), np.uint16), series=name)
    write_enhanced(tmp_path / "c", np.zeros((4, 4, 5), np.uint16))
    scans = find_scans(tmp_path)
    kept = kept_headers._headers.kept
    assert len(kept) == 4  # of the search those that are read first
    assert {path.parent.name for path, *_ in kept} == {"a", "b"}
    for scan in scans:
        read_scan(scan)
        assert sum(images for _, images in kept.values()) == kept_headers._headers.images <= 4
    assert {path.parent.name for path, *_ in kept} <= {"a", "b"}  # the file of 5 images isn't kept
