"""Which scans are found among DICOM files: divided series, anonymised ones, and objects that are no images."""

import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.fileset import FileSet
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from samed_hf.volumes import find_scans, read_scan
from samed_hf.volumes.dicom import find_series
from samed_hf.volumes.discovery import search_scans

from ..dicom_files import CORONAL, save, set_pixels, stored_scan, uid, write_enhanced, write_series

HU = stored_scan().astype(np.int16) - 1024
_STORAGE = "1.2.840.10008.5.1.4.1.1."


def changed(**values):
    """A change of every dataset of a series; `None` removes an element, a function gets the slice's number."""

    def change(dataset, index):
        for keyword, value in values.items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value(index) if callable(value) else value)

    return change


def write_image(path, sop_class, frames=0, **values):
    """One projection image, or a cine."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid(str(path))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("projections")
    dataset.Modality, dataset.SeriesNumber = "CR", 9
    set_pixels(dataset, np.zeros((frames, 6, 7) if frames else (6, 7), np.uint8))
    if frames:
        dataset.NumberOfFrames = frames
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path)


def write_object(path, sop_class):
    """A DICOM object without pixels."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = _STORAGE + sop_class, uid(str(path)), "OT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("objects")
    return save(dataset, path)


# ------------------------------------------------------------------------------------------- objects that are no images


def write_medium(directory):
    files = FileSet()
    for file in write_series(directory.parent / "originals"):
        files.add(file)
    files.write(directory)
    return directory / "DICOMDIR"


def test_a_dicomdir_beside_its_files_and_as_the_input(tmp_path):
    index = write_medium(tmp_path / "cd")
    for given in (tmp_path / "cd", index):
        (scan,), notes = search_scans([given])
        assert len(scan.files) == 5
        assert scan.suffix == ".dcm"
        np.testing.assert_array_equal(read_scan(scan).array, HU)
        assert "skipped 1 DICOMDIR, the index of a medium (DICOMDIR)" in notes
    renamed = shutil.copy(index, tmp_path / "index")
    with pytest.raises(ValueError, match="index is a DICOMDIR, the index of a medium, expected an image"):
        find_scans(renamed)


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        ("88.11", "a structured report (SR)"),
        ("88.67", "a structured report (SR)"),
        ("88.59", "a key object selection (KO)"),
        ("481.2", "an RT dose (RTDOSE)"),
        ("481.3", "an RT structure set (RTSTRUCT)"),
        ("481.5", "an RT plan (RTPLAN)"),
        ("481.7", "an RT object"),
        ("9.1.1", "an ECG"),
        ("9.4.1", "a waveform"),
        ("104.1", "an encapsulated PDF document"),
        ("104.3", "an encapsulated document"),
        ("11.1", "a presentation state (PR)"),
        ("66", "a raw data file"),
        ("66.4", "a segmentation (SEG)"),
        ("66.7", "a segmentation (SEG)"),
        ("78.1", "a DICOM object of class Lensometry Measurements"),
    ],
)
def test_an_object_that_is_no_image_is_named(tmp_path, sop_class, name):
    (tmp_path / "scan").mkdir()
    path = write_object(tmp_path / "scan" / "x.dcm", sop_class)
    with pytest.raises(ValueError, match=r"x\.dcm is .*expected an image") as caught:
        find_scans(path)
    assert f"is {name}, expected" in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        find_scans(tmp_path)
    assert f"it holds 1 {name.split(' ', 1)[1]};" in str(caught.value)
    files = write_series(tmp_path / "scan")
    (scan,), notes = search_scans([tmp_path])
    assert scan.files == tuple(files)
    assert notes == [f"skipped 1 {name.split(' ', 1)[1]} (x.dcm)"]


def test_a_label_map_segmentation_with_pixels_beside_slices(tmp_path):
    files = write_series(tmp_path)
    write_image(tmp_path / "labels", _STORAGE + "66.7", frames=5)
    write_image(tmp_path / "labels2", _STORAGE + "66.7", frames=5)
    (scan,), notes = search_scans([tmp_path])
    assert scan.files == tuple(files)
    assert notes == ["skipped 2 segmentations (SEG) (labels, labels2)"]


# ------------------------------------------------------------------------------------------------- images of all kinds


def test_projections_and_cines_are_scans_of_their_own(tmp_path):
    write_image(tmp_path / "p" / "left", ComputedRadiographyImageStorage)
    write_image(tmp_path / "p" / "right", ComputedRadiographyImageStorage)
    write_image(tmp_path / "p" / "cine", UltrasoundMultiFrameImageStorage, frames=3)
    write_series(tmp_path / "p" / "ct", number=4)
    scans, notes = search_scans([tmp_path])
    assert [(scan.name, len(scan.files), scan.suffix) for scan in scans] == [
        ("cine", 1, ".dcm"),
        ("ct", 5, ".dcm"),
        ("left", 1, ".dcm"),
        ("right", 1, ".dcm"),
    ]
    assert notes == []
    assert [one.is_volume for one in find_series(tmp_path)] == [True, False, False, False]


def test_a_capture_is_a_screenshot_beside_a_volume_alone(tmp_path):
    write_image(tmp_path / "photo", SecondaryCaptureImageStorage)
    write_image(tmp_path / "radiograph", ComputedRadiographyImageStorage)
    assert [scan.name for scan in find_scans(tmp_path)] == ["photo", "radiograph"]
    write_series(tmp_path / "ct")
    scans, notes = search_scans([tmp_path])
    assert [scan.path.name for scan in scans] == [tmp_path.name, "ct"]
    assert scans[0].files == (tmp_path / "radiograph",)
    assert notes == ["skipped 1 image without a position or in colour (photo)"]


def test_slices_in_colour_are_images(tmp_path):
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    change = changed(**colour, PixelData=bytes(range(126)))
    write_series(tmp_path / "fa", np.zeros((7, 6, 3), np.uint8), modality="MR", change=change)
    assert [scan.name for scan in find_scans(tmp_path)] == ["IM0000", "IM0001", "IM0002"]
    volume = read_scan(find_scans(tmp_path)[1], num_channels=3)
    assert volume.is_image
    np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1).ravel(), np.arange(126))
    write_series(tmp_path / "mr", modality="MR", series="grey")
    scans, notes = search_scans([tmp_path])
    assert [scan.name for scan in scans] == ["mr"]
    assert notes == ["skipped 3 images without a position or in colour (IM0000.dcm, IM0001.dcm, IM0002.dcm)"]


@pytest.mark.parametrize("size", [200, 0.25, 0.5])
def test_a_slice_cut_within_its_header_fails_its_series(tmp_path, size):
    files = sorted(write_series(tmp_path, stored_scan()[:, :, :3]))
    header = files[1].read_bytes().index(b"\x28\x00\x10\x00")  # Rows
    files[1].write_bytes(files[1].read_bytes()[: size if size > 1 else int(size * header)])
    [scan] = find_scans(tmp_path)
    assert len(scan.files) == 3
    with pytest.raises(ValueError, match=files[1].name):
        read_scan(scan)


def test_a_dicom_image_among_pictures_and_pictures_beside_a_volume(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (7, 6)).save(tmp_path / name)
    write_image(tmp_path / "c.dcm", ComputedRadiographyImageStorage)
    write_object(tmp_path / "report.dcm", "88.11")
    scans, notes = search_scans([tmp_path])
    assert [(scan.path.name, scan.suffix) for scan in scans] == [
        ("a.png", ".png"),
        ("b.png", ".png"),
        ("c.dcm", ".dcm"),
    ]
    assert notes == ["skipped 1 structured report (SR) (report.dcm)"]
    write_series(tmp_path / "ct")
    scans, notes = search_scans([tmp_path])
    assert [scan.path.name for scan in scans] == [tmp_path.name, "ct"]
    assert "skipped 2 images beside scans, taken for screenshots (a.png, b.png)" in notes


# ------------------------------------------------------------------------------------------------------ divided series


def write_parts(directory, parts, **settings):
    """Images of one series at the same positions, which differ in the elements of `parts`."""
    for part, values in enumerate(parts):
        own = {"SOPInstanceUID": lambda index, part=part: uid(part, index), "InstanceNumber": None} | values
        write_series(
            directory,
            stored_scan() + part,
            name=f"{part}-{{}}".format,
            change=changed(**own),
            rescale=(1, 0),
            **settings,
        )


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([{"EchoNumbers": 1, "EchoTime": 2.3}, {"EchoNumbers": 2, "EchoTime": 4.6}], ["echo-1", "echo-2"]),
        ([{"EchoTime": 4.6}, {"EchoTime": 12.3}], ["echo-1", "echo-2"]),
        ([{"NominalPercentageOfCardiacPhase": 30}, {"NominalPercentageOfCardiacPhase": 75}], ["phase-30", "phase-75"]),
        ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}], ["b-0", "b-1000"]),
        (
            [{"DiffusionBValue": 0.0}]
            + [
                {"DiffusionBValue": 1e3, "DiffusionGradientOrientation": x}
                for x in ([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])
            ],
            ["b-0_direction-1", "b-1000_direction-2", "b-1000_direction-3", "b-1000_direction-4"],
        ),
        ([{"AcquisitionNumber": 2}, {"AcquisitionNumber": 3}], ["acquisition-2", "acquisition-3"]),
        (
            [{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}],
            ["type-M", "type-P"],
        ),
        # Times that differ from slice to slice count by their order at each position.
        ([{"TriggerTime": lambda k: 10.5 + k}, {"TriggerTime": lambda k: 12 + k}], ["phase-1", "phase-2"]),
        ([{"ContentTime": lambda k: f"10150{k}.5"}, {"ContentTime": lambda k: f"10151{k}"}], ["phase-1", "phase-2"]),
        ([{"InstanceNumber": lambda k: k + 1}, {"InstanceNumber": lambda k: k + 6}], ["phase-1", "phase-2"]),
        ([{"InstanceNumber": lambda k: 2 * k}, {"InstanceNumber": lambda k: 2 * k + 1}], ["phase-1", "phase-2"]),
        (
            [{"EchoTime": time, "ImageType": ["ORIGINAL", "PRIMARY", kind]} for time in (2, 4) for kind in "MP"],
            ["echo-1_type-M", "echo-1_type-P", "echo-2_type-M", "echo-2_type-P"],
        ),
    ],
)
def test_images_at_the_same_positions_are_scans_of_their_own(tmp_path, parts, names):
    write_parts(tmp_path / "scan", parts)
    scans, _ = search_scans([tmp_path / "scan"])
    assert sorted(scan.name for scan in scans) == [f"scan_{name}" for name in names]
    for part, scan in enumerate(sorted(scans, key=lambda scan: scan.name)):
        np.testing.assert_array_equal(read_scan(scan).array, stored_scan() + part)
        assert any(f"one of {len(parts)} scans" in note for note in scan.notes)


def test_parts_of_one_of_several_series(tmp_path):
    write_parts(tmp_path / "scan", [{"EchoTime": 4.6}, {"EchoTime": 12.3}], number=5)
    write_series(tmp_path / "scan", series="other", number=7)
    assert [scan.name for scan in find_scans(tmp_path)] == [
        "scan_series-5_echo-1",
        "scan_series-5_echo-2",
        "scan_series-7",
    ]


def test_phases_of_a_single_slice(tmp_path):
    parts = [{"TemporalPositionIdentifier": number} for number in (1, 2, 10)]
    write_parts(tmp_path / "scan", parts, leave_out=(1, 2, 3, 4))
    assert [scan.name for scan in find_scans(tmp_path)] == ["scan_phase-1", "scan_phase-2", "scan_phase-10"]


def test_patients_of_one_series_uid_are_told_apart(tmp_path):
    uids = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "PatientID"), "1.2.3")
    for patient in ("a", "b"):
        change = changed(**uids, SOPInstanceUID=lambda index, patient=patient: uid(patient, index))
        write_series(tmp_path / patient, change=change)
    scans = find_scans(tmp_path)
    assert [scan.name for scan in scans] == [f"{tmp_path.name}_a", f"{tmp_path.name}_b"]
    assert [{file.parent.name for file in scan.files} for scan in scans] == [{"a"}, {"b"}]
    for patient in ("a", "b"):
        change = changed(**(uids | {"PatientID": patient}))
        write_series(tmp_path / "c", name=(patient + "{}").format, change=change)
    assert [len(scan.files) for scan in find_scans(tmp_path / "c")] == [5, 5]


def test_copies_do_not_divide_a_series(tmp_path):
    files = write_series(tmp_path, change=changed(AcquisitionNumber=lambda index: index // 3))
    shutil.copy(files[1], tmp_path / "copy")
    shutil.copytree(tmp_path, tmp_path.parent / "backup")
    shutil.move(tmp_path.parent / "backup", tmp_path / "backup")
    (scan,) = find_scans(tmp_path)
    assert len(scan.files) == 12
    volume = read_scan(scan)
    np.testing.assert_array_equal(volume.array, HU)
    assert "7 duplicated slices left out" in volume.header.notes


def test_stacks_of_several_directions(tmp_path):
    write_series(tmp_path / "scan", name="a{}".format)
    change = changed(SOPInstanceUID=lambda index: uid("coronal", index))
    write_series(tmp_path / "scan", name="c{}".format, orientation=CORONAL, change=change)
    scans = find_scans(tmp_path)
    assert [scan.name for scan in scans] == ["scan_stack-1", "scan_stack-2"]
    assert [read_scan(scan).orientation for scan in scans] == ["LPS", "LIP"]


# ---------------------------------------------------------------------------------------------------- anonymised series

_GONE = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"), None)


@pytest.mark.parametrize(
    "values",
    [
        _GONE,
        _GONE | {"SOPInstanceUID": None},
        dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), ""),
        dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), "1.2.3"),
        {"SOPInstanceUID": "1.2.3"},
    ],
)
def test_series_whose_uids_were_removed(tmp_path, values):
    for patient in ("a", "b"):
        write_series(tmp_path / patient, change=changed(**(values | {"SeriesDescription": "CT"})))
    coronal = changed(**(values | {"SeriesDescription": "CT"}))
    write_series(tmp_path / "b", orientation=CORONAL, name="c{}".format, change=coronal)
    scans = find_scans(tmp_path)
    assert [len(scan.files) for scan in scans] == [5, 5, 5]
    for scan in scans:
        assert scan.suffix == ".nii.gz"
        assert any("no DICOM segmentation can refer to it" in note for note in scan.notes)
        np.testing.assert_array_equal(read_scan(scan).array, HU)


def test_anonymised_series_of_one_directory_by_number_and_description(tmp_path):
    for index, (number, description) in enumerate([(1, "T1"), (2, "T1"), (2, "T2")]):
        own = changed(**_GONE, SeriesDescription=description)
        write_series(tmp_path / "scan", name=f"{index}-{{}}".format, number=number, change=own)
    scans = find_scans(tmp_path)
    assert [len(scan.files) for scan in scans] == [5, 5, 5]
    assert len({scan.name for scan in scans}) == 3


def test_results_of_images_without_uids(tmp_path):
    write_image(tmp_path / "radiograph", ComputedRadiographyImageStorage, StudyInstanceUID="")
    write_image(tmp_path / "cine", UltrasoundMultiFrameImageStorage, frames=2, StudyInstanceUID="")
    assert [(scan.name, scan.suffix) for scan in find_scans(tmp_path)] == [("cine", ".tif"), ("radiograph", ".png")]


def test_several_multi_frame_files_of_a_volume_are_written_as_nifti(tmp_path):
    for half in range(2):
        change = lambda dataset, half=half: setattr(dataset, "SOPInstanceUID", uid("half", half))  # noqa: E731
        write_enhanced(
            tmp_path / f"{half}", stored_scan()[:, :, 2 * half : 2 * half + 2], origin=(0, 0, 5.0 * half), change=change
        )
    (scan,) = find_scans(tmp_path)
    assert (len(scan.files), scan.suffix) == (2, ".nii.gz")
    assert read_scan(scan).grid == (7, 6, 4)


def test_one_search_collects_the_errors_of_its_paths(tmp_path):
    write_series(tmp_path / "ct")
    report = write_object(tmp_path / "report.dcm", "88.11")
    (tmp_path / "empty").mkdir()
    failed = {}
    paths = [tmp_path / "ct", report, tmp_path / "empty", tmp_path / "gone"]
    scans, _ = search_scans(paths, failed=failed)
    assert [scan.name for scan in scans] == ["ct"]
    assert set(failed) == set(paths[1:])
    assert "is a structured report (SR)" in failed[report]
