"""`samed-hf predict` and its functions: formats, flags, failures."""

import errno
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy import ndimage

from samed_hf import SamedImageProcessor, samed_lora_config
from samed_hf.cli import main
from samed_hf.inference import Segmenter, segment_volume
from samed_hf.prediction import case as prediction
from samed_hf.prediction import run as prediction_run
from samed_hf.prediction.case import clean_labels, predict_case
from samed_hf.prediction.files import Job, case_files, keep_earlier, label_file_names, plan_jobs
from samed_hf.prediction.run import predict_cases
from samed_hf.prediction.settings import PredictionSettings
from samed_hf.volumes import ScanFile, Volume, find_scans, read_scan, read_volume

from ..conftest import TINY_LABELS
from ..dicom_files import OBLIQUE, write_series

AFFINE = np.array([[-0.8, 0.2, 0, 90], [0.2, 0.8, 0, -100], [0, 0, 3, 20], [0, 0, 0, 1.0]])
NAMES = {0: "background", 1: "disc", 2: "bar"}


def run(*argv) -> int:
    return main(["predict", *(str(part) for part in argv)])


@pytest.fixture(scope="module")
def segmenter(tiny_adapter):
    return Segmenter.load([tiny_adapter])


@pytest.fixture
def array():
    return ndimage.gaussian_filter(np.random.default_rng(0).normal(50, 400, (40, 36, 5)), 1).astype(np.int16)


@pytest.fixture
def scans(tmp_path, array):
    """A directory with two scans, one of them oblique."""
    directory = tmp_path / "scans"
    directory.mkdir()
    nib.save(nib.Nifti1Image(array, AFFINE), directory / "a.nii.gz")
    nib.save(nib.Nifti1Image(array[::2, ::2], np.diag([2, 2, 5, 1.0])), directory / "b.nii")
    return directory


def files_in(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_writes_all_files(tiny_adapter, segmenter, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tiny_adapter, scans, "--output", out) == 0
    assert files_in(out) == [
        *["a.nii.gz", "a/preview.png", "a/statistics.json"],
        *["b.nii", "b/preview.png", "b/statistics.json"],
        *["predictions.json", "report.html"],
    ]
    content = json.loads((out / "predictions.json").read_text())
    assert [(case["name"], case["status"]) for case in content["cases"]] == [("a", "done"), ("b", "done")]
    assert content["cases"][0]["files"] == ["a.nii.gz", "a/preview.png", "a/statistics.json"]
    assert content["labels"] == {"1": "disc", "2": "bar"}
    assert content["settings"]["adapter"] == str(tiny_adapter)
    assert content["settings"]["num_processes"] == 1
    assert (content["settings"]["dtype"], content["settings"]["batch_size"]) == ("float32", None)
    assert {"python", "torch", "samed_hf", "SimpleITK"} <= set(content["versions"])

    image = nib.load(out / "a.nii.gz")
    labels = np.asarray(image.dataobj)
    assert np.array_equal(image.affine, nib.load(scans / "a.nii.gz").affine)
    np.testing.assert_array_equal(labels, segment_volume(segmenter, read_scan(scans / "a.nii.gz")).labels)
    rows = json.loads((out / "a" / "statistics.json").read_text())["labels"]
    values = np.asarray(nib.load(scans / "a.nii.gz").dataobj, dtype=float)
    printed = capsys.readouterr().out
    for index, name in ((1, "disc"), (2, "bar")):
        # From the written file and its header only.
        millilitres = (labels == index).sum() * abs(np.linalg.det(image.header.get_best_affine()[:3, :3])) / 1000
        assert rows[name]["voxels"] == (labels == index).sum() > 0
        assert rows[name]["ml"] == pytest.approx(millilitres, rel=1e-5)
        assert rows[name]["mean_intensity"] == pytest.approx(values[labels == index].mean())
        assert 1 / 3 <= rows[name]["mean_confidence"] <= 1
        assert f"{name} {millilitres:.3g} ml" in printed


@pytest.mark.slow
def test_every_format_gives_the_same_labels_on_its_own_grid(tiny_adapter, array, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    stored = (array - array.min()).astype(np.uint16)
    write_series(scans / "dicom", stored, orientation=OBLIQUE, rescale=(1, int(array.min())))
    series = read_volume(scans / "dicom")
    nib.save(nib.Nifti1Image(array, series.affine), scans / "nifti.nii.gz")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.CopyInformation(sitk.ReadImage(str(scans / "nifti.nii.gz")))
    for name in ("nrrd.nrrd", "mha.mha", "mhd.mhd"):
        sitk.WriteImage(image, str(scans / name))
    assert run(tiny_adapter, scans, "--output", out, "--per_class", "--no_preview") == 0
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "nifti.nii.gz")))
    assert np.unique(expected).tolist() == [0, 1, 2]
    for name in ("nrrd.nrrd", "mha.mha", "mhd.mhd"):
        source, written = sitk.ReadImage(str(scans / name)), sitk.ReadImage(str(out / name))
        for method in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            tolerance = 1e-12 if name == "nrrd.nrrd" else 0  # NRRD stores spacing times direction
            np.testing.assert_allclose(getattr(written, method)(), getattr(source, method)(), 0, tolerance)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), expected)
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / Path(name).stem / f"disc{Path(name).suffix}")))
        np.testing.assert_array_equal(mask, expected == 1)
    assert (out / "mhd.zraw").is_file()
    segmentation = pydicom.dcmread(out / "dicom.dcm")
    assert segmentation.Modality == "SEG"
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["disc", "bar"]
    assert [segment.SegmentLabel for segment in pydicom.dcmread(out / "dicom" / "bar.dcm").SegmentSequence] == ["bar"]
    both = [json.loads((out / name / "statistics.json").read_text()) for name in ("nifti", "dicom")]
    for name in ("disc", "bar"):
        assert both[0]["labels"][name]["voxels"] == both[1]["labels"][name]["voxels"]
        assert both[0]["labels"][name]["ml"] == pytest.approx(both[1]["labels"][name]["ml"], rel=1e-5)


@pytest.mark.slow
def test_images(tiny_adapter, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "slice.png")
    out = tmp_path / "out"
    assert run(tiny_adapter, tmp_path / "slice.png", "--output", out, "--probabilities", "--per_class") == 0
    assert files_in(out / "slice") == [
        *["bar.png", "disc.png", "preview.png", "probabilities.nii.gz", "statistics.json"]
    ]
    labels = np.asarray(Image.open(out / "slice.png"))
    assert labels.shape == (40, 50)
    rows = json.loads((out / "slice" / "statistics.json").read_text())["labels"]
    assert [rows[name]["pixels"] for name in ("disc", "bar")] == [(labels == 1).sum(), (labels == 2).sum()]
    assert "pixels" in capsys.readouterr().out
    assert run(tiny_adapter, tmp_path / "slice.png", "--output", tmp_path / "nifti", "--format", "nii.gz") == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "nifti" / "slice.nii.gz").array[:, :, 0].T, labels)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nii", "nrrd", "mha"])
def test_probabilities_masks_and_format(tiny_adapter, segmenter, scans, tmp_path, form):
    out = tmp_path / "out"
    flags = ["--format", form, "--per_class", "--probabilities", "--no_preview", "--no_report"]
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", out, *flags) == 0
    names = [f"a.{form}", f"a/bar.{form}", f"a/disc.{form}", f"a/probabilities.{form}", "a/statistics.json"]
    assert files_in(out) == [*names, "predictions.json"]
    labels = read_volume(out / f"a.{form}")
    every = read_volume(out / "a" / f"probabilities.{form}", num_channels=3)
    assert every.array.dtype == np.float32
    np.testing.assert_allclose(every.affine, labels.affine, atol=1e-4)
    np.testing.assert_allclose(every.array.sum(axis=3), 1, atol=1e-5)
    np.testing.assert_array_equal(every.array.argmax(axis=3), labels.array)
    for index, name in ((1, "disc"), (2, "bar")):
        np.testing.assert_array_equal(read_volume(out / "a" / f"{name}.{form}").array, labels.array == index)
        found = segment_volume(segmenter, read_scan(scans / "a.nii.gz")).labels == index
        np.testing.assert_array_equal(labels.array == index, found)


@pytest.mark.slow
def test_labels_and_clean_up(tiny_adapter, scans, tmp_path):
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", tmp_path / "all", "--no_preview") == 0
    before = read_volume(tmp_path / "all" / "a.nii.gz").array
    flags = ["--labels", "bar", "--keep_largest", "bar", "--per_class", "--no_preview"]
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", tmp_path / "bar", *flags) == 0
    after = read_volume(tmp_path / "bar" / "a.nii.gz").array
    assert np.unique(after).tolist() == [0, 2]
    components, count = ndimage.label(before == 2, np.ones((3, 3, 3)))
    assert count > 1
    sizes = np.bincount(components.ravel())[1:]
    assert (after == 2).sum() == sizes.max()
    statistics = json.loads((tmp_path / "bar" / "a" / "statistics.json").read_text())
    assert list(statistics["labels"]) == ["bar"]
    assert statistics["removed"] == {"bar": int(sizes.sum() - sizes.max())}
    assert files_in(tmp_path / "bar" / "a") == ["bar.nii.gz", "statistics.json"]


@pytest.mark.slow
def test_an_ensemble_of_two_equal_models_predicts_as_one(tiny_adapter, scans, tmp_path):
    twin = shutil.copytree(tiny_adapter, tmp_path / "twin")
    for name, more in (("one", []), ("two", ["--ensemble", twin])):
        assert run(tiny_adapter, scans / "a.nii.gz", "--output", tmp_path / name, "--no_preview", *more) == 0
    one, two = (read_volume(tmp_path / name / "a.nii.gz").array for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert json.loads((tmp_path / "two" / "predictions.json").read_text())["settings"]["ensemble"] == [str(twin)]


@pytest.mark.slow
def test_a_failing_case_does_not_stop_the_others(tiny_adapter, scans, tmp_path, capsys):
    (scans / "truncated.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:300])
    nib.save(nib.Nifti1Image(np.full((8, 8, 2), np.nan), np.eye(4)), scans / "nan.nii.gz")
    out = tmp_path / "out"
    assert run(tiny_adapter, scans, "--output", out, "--no_preview") == 1
    assert [path.name for path in sorted(out.iterdir())] == [
        "a",
        "a.nii.gz",
        "b",
        "b.nii",
        "predictions.json",
        "report.html",
    ]
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert errors[0].startswith("error: nan: ")
    assert "NaN" in errors[0]
    assert errors[1].startswith("error: truncated: ")
    assert "2 of 4 scans failed" in captured.err
    cases = {case["name"]: case for case in json.loads((out / "predictions.json").read_text())["cases"]}
    assert [cases[name]["status"] for name in ("a", "b", "nan", "truncated")] == ["done", "done", "failed", "failed"]
    assert "NaN" in cases["nan"]["error"]
    assert "truncated.nii.gz" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_file_is_left_if_all_cases_fail(tiny_adapter, tmp_path, capsys):
    (tmp_path / "truncated.nii.gz").write_bytes(b"truncated")
    assert run(tiny_adapter, tmp_path / "truncated.nii.gz", "--output", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    assert run(tiny_adapter, tmp_path / "truncated.nii.gz", "--output", tmp_path / "there") == 2
    assert (tmp_path / "there").is_dir()
    assert capsys.readouterr().err.count("error: truncated: ") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory (MemoryError): give a smaller --batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "give a smaller --batch_size"),
        (RuntimeError("mat1 and mat2\nshapes"), "it failed unexpectedly (RuntimeError: mat1 and mat2 shapes)"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (KeyError("x"), "it failed unexpectedly (KeyError: 'x')"),
    ],
)
def test_a_failing_case_leaves_no_file(segmenter, scans, tmp_path, monkeypatch, error, message):
    """The case fails after its label map has been written."""
    out, settings = tmp_path / "out", PredictionSettings()

    def fail(path, statistics):
        if statistics["case"] == "a":
            raise error
        write(path, statistics)

    write = prediction.write_json
    monkeypatch.setattr(prediction, "write_json", fail)
    jobs = plan_jobs(find_scans(scans), out, settings)
    records = predict_cases(segmenter, jobs, out, settings)
    assert [record["status"] for record in records] == ["failed", "done"]
    assert message in records[0]["error"]
    assert "\n" not in records[0]["error"]
    assert files_in(out) == ["b.nii", "b/preview.png", "b/statistics.json"]
    assert not (out / "a").exists()


@pytest.mark.slow
def test_unusual_names(tiny_adapter, array, tmp_path, capsys):
    directory = tmp_path / "scans"
    directory.mkdir()
    names = ["<b>&amp; $x^", "a b;c", "zwei\nZeilen", "ünï‮x", os.fsdecode(b"bad\xff"), "_start", "{{ 7 * 7 }}"]
    for name in names:
        nib.save(nib.Nifti1Image(array[::2, ::2], AFFINE), directory / "x.nii.gz")
        (directory / "x.nii.gz").rename(directory / f"{name}.nii.gz")
    out = tmp_path / "out"
    assert run(tiny_adapter, directory, "--output", out) == 0
    for name in names:
        assert (out / f"{name}.nii.gz").is_file()
        assert (out / name / "preview.png").is_file()
    lines = capsys.readouterr().out.splitlines()
    assert sum(" ml" in line for line in lines) == len(names)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page.replace("<b>", "", 3)  # the three numbers at the top
    assert "{{ 7 * 7 }}" in page
    assert 'href="bad%FF.nii.gz"' in page


@pytest.mark.slow
def test_flags_reach_the_model(tiny_adapter, scans, tmp_path, monkeypatch):
    seen = {}

    def keep(segmenter, scan, **options):
        seen.update(options, models=len(segmenter.models))
        return segment_volume(segmenter, scan, **options)

    monkeypatch.setattr(prediction, "segment_volume", keep)
    flags = ["--tta", "--batch_size", "3", "--ensemble", tiny_adapter, tiny_adapter, "--no_preview", "--no_report"]
    assert run(tiny_adapter, scans / "b.nii", "--output", tmp_path / "out", *flags) == 0
    assert (seen["tta"], seen["batch_size"], seen["models"], seen["probabilities"]) == (True, 3, 1, None)


@pytest.mark.slow
def test_bfloat16_is_used_and_recorded(tiny_adapter, scans, tmp_path):
    for dtype in ("float32", "bfloat16"):
        flags = ["--dtype", dtype, "--batch_size", "auto", "--no_preview"]
        assert run(tiny_adapter, scans / "a.nii.gz", "--output", tmp_path / dtype, *flags) == 0
        content = json.loads((tmp_path / dtype / "predictions.json").read_text())
        assert content["settings"]["dtype"] == dtype
    whole, half = (read_volume(tmp_path / dtype / "a.nii.gz").array for dtype in ("float32", "bfloat16"))
    assert (whole == half).mean() > 0.95
    segmenter = Segmenter.load([tiny_adapter], dtype="bfloat16")
    assert segmenter.models[0].dtype == torch.bfloat16
    result = segment_volume(segmenter, read_scan(scans / "a.nii.gz"))
    np.testing.assert_array_equal(result.labels, half)
    assert len(np.unique(result.confidence)) > 60  # from 1/3 to 0.36, where bfloat16 has 16 values


@pytest.mark.slow
def test_batch_size_is_a_number_or_auto(tiny_adapter, scans, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(tiny_adapter, scans, "--output", tmp_path / "out", "--batch_size", "many")
    assert "--batch_size: 'many'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- pipelining


class Overlap:
    """Delays the writing of case a until case b is being segmented, and calls `in_b` there."""

    def __init__(self, monkeypatch, in_b=None):
        self.reached, self.in_b = threading.Event(), in_b or (lambda progress: None)
        self.cases = []
        write = prediction.write_json

        def segment(segmenter, scan, **options):
            self.cases.append(scan)
            if len(self.cases) == 2:
                self.in_b(options["progress"])
                self.reached.set()
            return segment_volume(segmenter, scan, **options)

        def delay(path, statistics):
            if statistics["case"] == "a":
                assert self.reached.wait(20)
            write(path, statistics)

        monkeypatch.setattr(prediction, "segment_volume", segment)
        monkeypatch.setattr(prediction, "write_json", delay)

    def run(self, segmenter, scans, out, **options):
        settings = PredictionSettings(preview=False)
        return predict_cases(segmenter, plan_jobs(find_scans(scans), out, settings), out, settings, **options)


@pytest.fixture
def logged(caplog):
    caplog.set_level("INFO", logger="samed_hf")
    return caplog


@pytest.mark.slow
def test_a_case_is_written_while_the_next_is_segmented(segmenter, scans, tmp_path, monkeypatch, logged):
    shutil.copy(scans / "a.nii.gz", scans / "c.nii.gz")
    records = Overlap(monkeypatch).run(segmenter, scans, tmp_path / "out")
    assert [(record["name"], record["status"]) for record in records] == [(name, "done") for name in "abc"]
    assert [Path(line.split(":")[0]).name for line in logged.messages] == ["a.nii.gz", "b.nii", "c.nii.gz"]
    one, other = (read_volume(tmp_path / "out" / f"{name}.nii.gz").array for name in "ac")
    np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "out").glob(".*.tmp"))


@pytest.mark.slow
def test_progress_waits_for_the_report_of_the_previous_case(segmenter, scans, tmp_path, monkeypatch, logged):
    class Display:
        def __init__(self, description, unit, bar=None):
            self.description = description

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, done, total):
            logged.handler.emit(logging.makeLogRecord({"msg": f"{self.description} {done}/{total}"}))

    def in_b(progress):
        progress(1, 9)
        overlap.reached.set()
        while "case 2/2 b" not in logged.messages[-1]:
            progress(2, 9)

    monkeypatch.setattr(prediction_run, "ProgressBar", Display)
    overlap = Overlap(monkeypatch, in_b)
    overlap.run(segmenter, scans, tmp_path / "out")
    reported = next(index for index, line in enumerate(logged.messages) if "a.nii.gz: " in line)
    assert all(line.startswith("case 1/2 a ") for line in logged.messages[:reported])
    assert logged.messages[reported + 1] == "case 2/2 b 2/9"


@pytest.mark.slow
def test_a_case_that_fails_while_another_is_written(segmenter, scans, tmp_path, monkeypatch, logged):
    shutil.copy(scans / "a.nii.gz", scans / "c.nii.gz")

    def fail(progress):
        threading.Timer(0.2, overlap.reached.set).start()
        raise ValueError("b is invalid")

    overlap = Overlap(monkeypatch, fail)
    records = overlap.run(segmenter, scans, tmp_path / "out")
    assert [(record["name"], record["status"]) for record in records] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert records[1]["error"] == "b is invalid"
    assert [line.split()[0].split("/")[-1] for line in logged.messages] == ["a.nii.gz:", "failed", "c.nii.gz:"]
    assert files_in(tmp_path / "out") == ["a.nii.gz", "a/statistics.json", "c.nii.gz", "c/statistics.json"]


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_written_case(segmenter, scans, tmp_path, monkeypatch, logged):
    shutil.copy(scans / "a.nii.gz", scans / "c.nii.gz")

    def interrupt(progress):
        threading.Timer(0.2, overlap.reached.set).start()  # case a is still being written
        raise KeyboardInterrupt

    overlap = Overlap(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        overlap.run(segmenter, scans, tmp_path / "out")
    assert files_in(tmp_path / "out") == ["a.nii.gz", "a/statistics.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "a.nii.gz"]
    assert len(logged.messages) == 1


# ------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "0"], "batch_size is 0: expected at least 1 slice"),
        (["--labels", "liver"], "labels names 'liver', which the model doesn't have: expected some of disc, bar"),
        (["--labels", "background"], "labels names 'background'"),
        (["--labels", "disc,disc"], "labels names 'disc' twice"),
        (["--keep_largest", "spleen,disc"], "keep_largest names 'spleen', which"),
        (["--min_island_ml", "spleen=1"], "min_island_ml names 'spleen', which"),
        (["--min_island_ml", "much"], "--min_island_ml is 'much': expected a size in ml"),
        (["--min_island_ml", "disc=1,disc=2"], "expected a size in ml"),
        (["--min_island_ml", "=1"], "expected a size in ml"),
        (["--min_island_ml", "-1"], "min_island_ml is -1.0 for 'all': expected a size above 0 ml"),
        (["--min_island_ml", "disc=nan"], "min_island_ml is nan for 'disc'"),
        (["--format", "dcm"], "is no DICOM series"),
        (["--ensemble", "/no/such/adapter"], "/no/such/adapter"),
    ],
)
def test_bad_arguments(tiny_adapter, scans, tmp_path, capsys, flags, message):
    # As one argument: argparse would parse a leading minus as a flag.
    flags = [f"{flags[0]}={flags[1]}"]
    assert run(tiny_adapter, scans, "--output", tmp_path / "out", *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_arguments_are_checked_before_the_model_is_loaded(scans, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for flags, message in (
        (["--output", tmp_path / "out", "--batch_size", "0"], "batch_size"),
        (["--output", tmp_path / "file"], "is a file: expected a directory"),
        (["--output", scans], "choose another directory"),
    ):
        assert run("/no/such/adapter", scans, *flags) == 2
        assert message in capsys.readouterr().err
    assert run("/no/such/adapter", tmp_path / "nowhere", "--output", tmp_path / "out") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- files


def job_of(name, path="/scans/x.nii.gz", kind="nifti", suffix=".nii.gz"):
    return ScanFile(name, Path(path), kind, (), suffix)


@pytest.mark.slow
def test_no_two_results_share_a_name(tmp_path):
    settings = PredictionSettings()
    for names in (("a", "a.nii.gz"), ("report.html",), ("predictions.json",)):
        with pytest.raises(ValueError, match="share the name"):
            plan_jobs([job_of(name, f"/{index}.nii.gz") for index, name in enumerate(names)], tmp_path, settings)
    for name in (".", ".."):
        with pytest.raises(ValueError, match="gives no name"):
            plan_jobs([job_of(name)], tmp_path / "out", settings)


@pytest.mark.slow
def test_results_in_a_dicom_directory_are_refused(tmp_path):
    files = write_series(tmp_path / "scans" / "patient")
    scan = ScanFile("patient", tmp_path / "scans" / "patient", "dicom", tuple(files), ".dcm")
    with pytest.raises(ValueError, match=r"contains the scan .*patient: choose another directory"):
        plan_jobs([scan], tmp_path / "scans", PredictionSettings())
    jobs = plan_jobs([scan], tmp_path / "out", PredictionSettings(format="nii.gz"))
    assert [(job.labels, job.probabilities) for job in jobs] == [("patient.nii.gz", "probabilities.nii.gz")]
    assert Job(scan, ".dcm").probabilities == "probabilities.nii.gz"
    assert Job(scan, ".nrrd").probabilities == "probabilities.nrrd"


@pytest.mark.slow
def test_results_of_an_earlier_run_are_kept_or_replaced(segmenter, scans, tmp_path):
    out = tmp_path / "out"
    first = PredictionSettings(per_class=True, probabilities=True)
    jobs = plan_jobs(find_scans(scans / "a.nii.gz"), out, first)
    predict_cases(segmenter, jobs, out, first)
    (out / "a" / "notes.txt").write_text("the user's own")
    (out / "a.txt").write_text("the user's own")
    (out / "a" / "statistics.json").write_text(
        (out / "a" / "statistics.json")
        .read_text()
        .replace('"files": [', '"files": ["../scans/a.nii.gz", "a.txt/../b",')
    )
    with pytest.raises(ValueError, match=r"a\.nii\.gz exists already"):
        plan_jobs([jobs[0].scan], out, first)
    second = PredictionSettings(format="nrrd", preview=False)
    with pytest.raises(ValueError, match=r"out/a exists already"):
        plan_jobs([jobs[0].scan], out, second)
    jobs = plan_jobs([jobs[0].scan], out, second, overwrite=True)
    predict_cases(segmenter, jobs, out, second)
    # Masks, probabilities and preview of the first run don't belong to the new labels.
    assert files_in(out) == ["a.nrrd", "a.txt", "a/notes.txt", "a/statistics.json"]
    assert (scans / "a.nii.gz").exists()


@pytest.mark.slow
def test_files_moved_before_a_failure_are_removed(tmp_path, monkeypatch):
    job = Job(job_of("a"), ".nii.gz")
    moved = []

    def replace(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError("disk gone")
        os.rename(source, target)

    def write():
        with case_files(tmp_path, job) as directory:
            (directory / "a.nii.gz").write_text("")
            (directory / "a" / "statistics.json").write_text("{}")
            monkeypatch.setattr(os, "replace", replace)

    with pytest.raises(OSError, match="disk gone"):
        write()
    assert len(moved) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_names_of_masks():
    names = {
        1: "left kidney",
        2: "left_kidney",
        3: "../../etc",
        4: "",
        5: "statistics",
        6: "Probabilities",
        7: "Leber 肝",
    }
    files = label_file_names(names, ".nii.gz")
    assert files == {
        1: "left_kidney.nii.gz",
        2: "left_kidney_2.nii.gz",
        3: "etc.nii.gz",
        4: "label_4.nii.gz",
        5: "statistics.nii.gz",
        6: "Probabilities_6.nii.gz",
        7: "Leber_肝.nii.gz",
    }
    assert label_file_names({1: "preview"}, ".png") == {1: "preview_1.png"}


@pytest.mark.slow
def test_an_earlier_report_is_kept(tmp_path):
    for number in (1, 2):
        (tmp_path / "report.html").write_text(f"run {number}")
        (tmp_path / "predictions.json").write_text(f"run {number}")
        keep_earlier(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        **{"report-1.html": "run 1", "predictions-1.json": "run 1"},
        **{"report-2.html": "run 2", "predictions-2.json": "run 2"},
    }


# ------------------------------------------------------------------------------------------------------------- clean-up


@pytest.mark.slow
def test_clean_up_in_millilitres_and_in_any_orientation():
    labels = np.zeros((9, 8, 7), dtype=np.uint8)
    labels[1, 1, 1] = labels[7, 6, 5] = labels[4, 3, 0:2] = 1
    labels[0:2, 4:6, 6] = labels[6:8, 4:6, 6] = 2
    scan = Volume(np.zeros(labels.shape), np.diag([5.0, 5, 40, 1]))  # a voxel is 1 ml
    settings = PredictionSettings(min_island_ml={"disc": 2.0}, keep_largest=("bar",))
    cleaned, removed = clean_labels(labels, scan, NAMES, settings)
    assert removed == {"disc": 2, "bar": 4}
    assert np.argwhere(cleaned == 1).tolist() == [[4, 3, 0], [4, 3, 1]]
    flipped = Volume(np.zeros(labels.shape)[::-1], scan.affine @ np.diag([-1.0, 1, 1, 1]))
    other, _ = clean_labels(np.ascontiguousarray(labels[::-1]), flipped, NAMES, settings)
    np.testing.assert_array_equal(other[::-1], cleaned)
    everything = PredictionSettings(min_island_ml={"all": 1e9, "bar": 0.5}, labels=("bar",))
    assert clean_labels(labels, scan, NAMES, everything)[1] == {}
    assert clean_labels(labels, scan, NAMES, PredictionSettings(min_island_ml={"all": 1e9}))[0].max() == 0


# ------------------------------------------------------------------------------------------------------------- progress


@pytest.mark.slow
def test_progress_counts_slices(segmenter, scans, tmp_path):
    seen = []
    (job,) = plan_jobs(find_scans(scans / "a.nii.gz"), tmp_path / "out", settings := PredictionSettings(batch_size=2))
    predict_case(segmenter, job, tmp_path / "out", settings, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(2, 5), (4, 5), (5, 5)]


# --------------------------------------------------------------------------------------------------- several processes


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tiny_adapter, scans, tmp_path):
    (scans / "truncated.nii.gz").write_bytes(b"truncated")
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    out = tmp_path / "out"
    flags = ["predict", tiny_adapter, scans, "--output", out]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    root = str(Path(prediction.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", *launch, "samed_hf.cli", *map(str, flags)],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: truncated: ")
    content = json.loads((out / "predictions.json").read_text())
    assert content["settings"]["num_processes"] == 2
    assert [(case["name"], case["status"]) for case in content["cases"]] == [
        *[("a", "done"), ("b", "done"), ("truncated", "failed")]
    ]
    assert files_in(out) == [
        *["a.nii.gz", "a/preview.png", "a/statistics.json", "b.nii", "b/preview.png", "b/statistics.json"],
        *["predictions.json", "report.html"],
    ]
    assert run(tiny_adapter, scans / "a.nii.gz", "--output", tmp_path / "single") == 0
    assert (tmp_path / "single" / "a" / "statistics.json").read_bytes() == (out / "a" / "statistics.json").read_bytes()
    assert TINY_LABELS == NAMES


@pytest.mark.slow
def test_the_preview_of_channels_of_which_only_the_second_has_a_window(tiny_model, tmp_path):
    processor = SamedImageProcessor(tiny_model.config.image_size, [None, (0, 80)], channel_names=["PET", "CT"])
    tiny_model.add_adapter(samed_lora_config(rank=1))
    tiny_model.save_pretrained(tmp_path / "model", image_processor=processor)
    scan = np.random.default_rng(0).normal(40, 20, (16, 12, 3)).astype(np.float32)
    (tmp_path / "scans").mkdir()
    for channel in range(2):
        nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / "scans" / f"a_000{channel}.nii.gz")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "scans"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a" / "preview.png").exists()
