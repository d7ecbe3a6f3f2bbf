"""Inputs that can't be read: each is one row of `predictions.json` with its reason, the others are predicted."""

import builtins
import errno
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from samed_hf.cli import main
from samed_hf.prediction import case as prediction
from samed_hf.prediction import merging
from samed_hf.volumes import find_scans

from ..dicom_files import write_series


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv), "--no_preview"])


@pytest.fixture
def scans(tmp_path):
    directory = tmp_path / "scans"
    directory.mkdir()
    for index, name in enumerate("ab"):
        array = np.random.default_rng(index).normal(50, 200, (20, 18, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), directory / f"{name}.nii.gz")
    return directory


@pytest.fixture
def lock(monkeypatch):
    """A function that denies the access to paths; permissions would not stop an administrator."""
    locked = set()

    def deny(function):
        def call(path=".", *args, **options):
            if isinstance(path, str | Path) and str(path) in locked:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *args, **options)

        return call

    for module, name in ((os, "scandir"), (os, "listdir"), (Path, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, deny(getattr(module, name)))
    return lambda path: locked.add(str(path))


def rows(out):
    cases = json.loads((out / "predictions.json").read_text())["cases"]
    return {case["name"]: case.get("error", case["status"]) for case in cases}


def test_unreadable_directories_and_files(tiny_adapter, scans, tmp_path, lock):
    (scans / "below").mkdir()
    locked = tmp_path / "locked"
    for name in ("locked", "more/below"):
        write_series(tmp_path / name, np.zeros((20, 18, 3), np.uint16))
    lock(locked)
    lock(scans / "below")
    lock(scans / "b.nii.gz")
    lock(tmp_path / "more" / "below")
    (scans / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    assert run(tiny_adapter, locked, scans, tmp_path / "more", tmp_path / "absent", "--output", out) == 1
    found = rows(out)
    assert found["a"] == "done"
    for name in ("locked", "b", str(scans / "below"), str(tmp_path / "more" / "below")):
        assert "Permission denied" in found[name], name
    for name in ("gone", "absent"):
        assert "does not exist" in found[name], name
    assert "holds no scan" in found["more"]
    assert len(found) == 8
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("Permission denied") == 4


def test_an_unreadable_directory_below_is_noted_without_a_list_of_errors(scans, lock, caplog):
    (scans / "below").mkdir()
    lock(scans / "below")
    caplog.set_level("INFO", logger="samed_hf")
    assert [scan.name for scan in find_scans(scans)] == ["a", "b"]
    assert any("below" in line and "Permission denied" in line for line in caplog.messages)


def test_a_single_unreadable_directory_is_an_error(tiny_adapter, scans, tmp_path, lock, capsys):
    lock(scans)
    assert run(tiny_adapter, scans, "--output", tmp_path / "out") == 2
    assert "Permission denied" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_vanishes_while_others_are_predicted(tiny_adapter, scans, tmp_path, monkeypatch):
    segment = prediction.segment_volume

    def vanish(*args, **options):
        (scans / "c.nii.gz").unlink(missing_ok=True)
        return segment(*args, **options)

    (scans / "c.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    monkeypatch.setattr(prediction, "segment_volume", vanish)
    assert run(tiny_adapter, scans, "--output", tmp_path / "out") == 1
    found = rows(tmp_path / "out")
    assert (found["a"], found["b"]) == ("done", "done")
    assert "c.nii.gz does not exist" in found["c"]


def test_an_input_that_cannot_be_read_any_more_keeps_its_results(tiny_adapter, scans, tmp_path, lock):
    out = tmp_path / "out"
    assert run(tiny_adapter, scans, "--output", out) == 0
    before = (out / "b.nii.gz").read_bytes()
    lock(scans / "b.nii.gz")
    assert run(tiny_adapter, scans, "--output", out, "--skip_existing") == 1
    found = rows(out)
    assert found["a"] == "done"
    assert "Permission denied" in found["b"]
    assert (out / "b.nii.gz").read_bytes() == before


def test_an_input_that_can_be_searched_again_is_listed_by_its_scans_alone(tiny_adapter, scans, tmp_path):
    later, out = tmp_path / "later", tmp_path / "out"
    command = (tiny_adapter, scans, later, "--output", out, "--skip_existing")
    assert run(*command) == 1
    assert list(rows(out)) == ["a", "b", "later"]
    later.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((20, 18, 2), np.int16), np.eye(4)), later / "c.nii.gz")
    assert run(*command) == 0
    assert rows(out) == {"a": "done", "b": "done", "c": "done"}


def test_a_full_disk_hides_no_failure(tiny_adapter, scans, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (scans / "b.nii.gz").write_bytes(b"damaged")
    monkeypatch.setattr(merging, "write_json", full)
    assert run(tiny_adapter, scans, "--output", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert lines[0].startswith("error: b: ")
    assert "No space left on device: free space" in lines[1]
