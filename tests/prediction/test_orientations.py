"""One scan saved in many orientations and formats gets the same labels, each on the grid of its file."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from accelerate.state import AcceleratorState, GradientState

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor
from samed_hf.cli import main
from samed_hf.volumes import Volume, read_volume, reorient, write_volume

from ..conftest import TINY_SIZE
from ..data_folders import make_scans
from ..dicom_files import series_affine, write_series

SHAPE = (21, 18, 7)
SCAN = make_scans(1, SHAPE)["case_00"][0]
LPS = np.array([[-0.9, 0, 0, 40.5], [0, -1.1, 0, 33.0], [0, 0, 2.5, -12.0], [0, 0, 0, 1]])
ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "ASL")


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module", params=["LPS", "SAR"])
def adapter(request, tiny_adapter, tmp_path_factory):
    """The tiny adapter with its own canonical orientation."""
    model = SamedForSemanticSegmentation.from_pretrained(tiny_adapter)
    directory = tmp_path_factory.mktemp("oriented") / "adapter"
    processor = SamedImageProcessor(TINY_SIZE, (0, 200), orientation=request.param, percentiles=(1, 99))
    model.save_pretrained(directory, image_processor=processor)
    return directory


def oblique(affine, degrees=17.0):
    """The affine rotated by `degrees` about two axes, around the corner of the scan."""
    turn = np.eye(4)
    a, b = np.radians(degrees), np.radians(0.6 * degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn[:3, :3] = about_x @ about_z
    return turn @ affine


def write_all(directory):
    """Write the scan in all variants; returns the matrix from voxels of each file to voxels of `SCAN`."""
    directory.mkdir()
    volume = Volume(SCAN, LPS)
    files = {}
    for orientation in ORIENTATIONS:
        reoriented = reorient(volume, orientation)
        path = directory / f"{orientation}.nii.gz"
        nib.save(nib.Nifti1Image(np.ascontiguousarray(reoriented.array), reoriented.affine), path)
        files[path] = np.linalg.inv(LPS) @ reoriented.affine
    path = directory / "oblique.nii.gz"
    nib.save(nib.Nifti1Image(SCAN, oblique(LPS)), path)
    files[path] = np.eye(4)
    for suffix, orientation in (("nrrd", "PIR"), ("mha", "ASL"), ("mhd", "RAS")):
        reoriented = reorient(volume, orientation)
        path = directory / f"itk-{orientation}.{suffix}"
        write_volume(path, Volume(np.ascontiguousarray(reoriented.array), reoriented.affine))
        files[path] = np.linalg.inv(LPS) @ reoriented.affine
    # The voxels of the series are those of the scan for any geometry; its rescale intercept is -1024.
    write_series(directory / "series", SCAN.astype(np.uint16) + 1024, name="{:04d}".format)
    return files


def labels_as_the_scan(path, to_scan):
    """The labels of a result on the grid of `SCAN`."""
    labels = read_volume(path).array
    indices = np.indices(labels.shape).reshape(3, -1)
    places = np.rint((to_scan @ np.vstack([indices, np.ones(indices.shape[1])]))[:3]).astype(int)
    result = np.full(SHAPE, 255, np.uint8)
    result[tuple(places)] = labels.ravel()
    return result


def assert_same_grid(one, other):
    first, second = (sitk.ReadImage(str(path)) for path in (one, other))
    assert first.GetSize() == second.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(first, get)() == pytest.approx(getattr(second, get)(), abs=1e-6), (one, get)


def assert_measured(rows, path):
    """Voxels and millilitres as SimpleITK counts them in the written file, by its own header."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    for row in rows.values():
        count = int((array == row["index"]).sum())
        assert row["voxels"] == count
        assert row["ml"] == pytest.approx(count * np.prod(image.GetSpacing()) / 1000, rel=1e-6)
    assert sum(row["voxels"] for row in rows.values()) == (array > 0).sum() > 0


@pytest.mark.slow
def test_one_scan_in_many_files(adapter, tmp_path, capsys):
    files = write_all(tmp_path / "in")
    output = tmp_path / "out"
    inputs = [str(tmp_path / "in"), str(tmp_path / "in" / "series")]
    assert main(["predict", str(adapter), *inputs, "--output", str(output)]) == 0, capsys.readouterr().err
    expected = None
    for path, to_scan in files.items():
        result = output / path.name
        assert_same_grid(result, path)
        found = labels_as_the_scan(result, to_scan)
        expected = found if expected is None else expected
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
        statistics = json.loads((output / path.name.split(".")[0] / "statistics.json").read_text())
        assert_measured(statistics["labels"], result)
    # The same series as NIfTI, and what DICOM-SEG holds.
    flat = tmp_path / "flat"
    assert main(["predict", str(adapter), inputs[1], "--output", str(flat), "--format", "nii.gz"]) == 0
    series = read_volume(flat / "series.nii.gz")
    np.testing.assert_array_equal(series.array, expected)
    np.testing.assert_allclose(series.affine, series_affine(), atol=1e-4)
    import highdicom as hd

    segmentation = hd.seg.segread(output / "series.dcm")
    volume = segmentation.get_volume(combine_segments=True)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    names = {
        number: segmentation.get_segment_description(number).segment_label for number in segmentation.segment_numbers
    }
    index = {"disc": 1, "bar": 2}
    seen = np.zeros(SHAPE, np.uint8)
    for number, name in names.items():
        places = np.argwhere(volume.array == number)
        to_series = np.linalg.inv(series_affine()) @ affine
        voxels = np.rint((to_series @ np.vstack([places.T, np.ones(len(places))]))[:3]).astype(int)
        seen[tuple(voxels)] = index[name]
    np.testing.assert_array_equal(seen, expected)
