"""DICOM files of all kinds as inputs of `predict`."""

import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, UltrasoundMultiFrameImageStorage

from samed_hf.cli import main

from ..dicom_files import write_image, write_series
from ..volumes.test_dicom_search import changed, write_object, write_parts


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv)])


def result(out, name):
    statistics = json.loads((out / name / "statistics.json").read_text())
    return statistics["files"][0], statistics["grid"]["shape"], statistics["notes"]


@pytest.mark.slow
def test_a_study_of_many_kinds(tiny_adapter, tmp_path):
    study = tmp_path / "study"
    write_parts(study / "mr", [{"EchoTime": 4.6}, {"EchoTime": 12.3}])
    write_object(study / "report", "88.11")
    (study / "x").mkdir()
    rng = np.random.default_rng(0)
    gray = {"kind": ComputedRadiographyImageStorage, "modality": "CR", "ImagePositionPatient": None}
    write_image(study / "x" / "thorax", rng.integers(0, 255, (1, 24, 20)).astype(np.uint8), **gray)
    cine = {"kind": UltrasoundMultiFrameImageStorage, "modality": "US"}
    write_image(study / "x" / "heart", rng.integers(0, 255, (3, 20, 24, 3)).astype(np.uint8), **cine)
    assert run(tiny_adapter, study, "--output", tmp_path / "out", "--no_preview") == 0
    out = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sorted(case["name"] for case in out["cases"]) == ["heart", "mr_echo-1", "mr_echo-2", "thorax"]
    assert out["notes"] == ["skipped 1 structured report (SR) (report)"]
    assert out["notes"][0] in (tmp_path / "out" / "report.html").read_text()
    assert result(tmp_path / "out", "heart")[:2] == ("heart.dcm", [24, 20, 3])
    assert result(tmp_path / "out", "thorax")[:2] == ("thorax.dcm", [20, 24, 1])
    assert any("told apart by EchoTime: 12.3" in note for note in result(tmp_path / "out", "mr_echo-2")[2])
    segmentation = pydicom.dcmread(tmp_path / "out" / "heart.dcm")
    assert (segmentation.Rows, segmentation.Columns) == (20, 24)


def test_without_uids(tiny_adapter, tmp_path, capsys):
    gone = {"StudyInstanceUID": None, "SeriesInstanceUID": None}
    write_series(tmp_path / "in" / "ct", change=changed(**gone))
    (tmp_path / "in" / "x").mkdir()
    pixels = np.zeros((2, 20, 24), np.uint8)
    write_image(tmp_path / "in" / "x" / "photo", pixels[:1], **gone, kind=ComputedRadiographyImageStorage)
    write_image(tmp_path / "in" / "x" / "cine", pixels, **gone, kind=UltrasoundMultiFrameImageStorage)
    assert run(tiny_adapter, tmp_path / "in", "--output", tmp_path / "out", "--no_preview") == 0
    for name, file, shape in (
        ("ct", "ct.nii.gz", [7, 6, 5]),
        ("photo", "photo.png", [24, 20, 1]),
        ("cine", "cine.tif", [24, 20, 2]),
    ):
        assert result(tmp_path / "out", name)[:2] == (file, shape)
        (note,) = (note for note in result(tmp_path / "out", name)[2] if "StudyInstanceUID" in note)
        assert "no DICOM segmentation can refer to it" in note
    with Image.open(tmp_path / "out" / "cine.tif") as image:
        assert (image.size, image.n_frames) == ((24, 20), 2)
    assert run(tiny_adapter, tmp_path / "in" / "ct", "--output", tmp_path / "seg", "--format", "dcm") == 2
    assert "no usable StudyInstanceUID" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["study/report", "study"])
def test_a_report_alone_is_named(tiny_adapter, tmp_path, capsys, given):
    (tmp_path / "study").mkdir()
    write_object(tmp_path / "study" / "report", "88.11")
    assert run(tiny_adapter, tmp_path / given, "--output", tmp_path / "out") == 2
    assert "structured report (SR)" in capsys.readouterr().err
