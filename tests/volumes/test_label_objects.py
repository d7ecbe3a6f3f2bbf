"""Structure sets and segmentations on the grid of their series."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from samed_hf.volumes.dicom import read_label_map, read_label_object, read_series, write_rtstruct, write_segmentation

from ..dicom_files import AXIAL, ORIENTATIONS, ORIGIN, SPACING, uid, write_enhanced, write_series
from ..label_objects import write_segments, write_structures
from .test_dicom_seg import COLORS, NAMES, labels_on, needs_dciodvfy


def box(columns, rows, along, orientation=AXIAL):
    """A rectangle from pixel edge to pixel edge, in mm: `columns` and `rows` are (first, last), `along` the slice."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    ends = [(x, y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    x, y = np.add(columns, (-0.5, 0.5)), np.add(rows, (-0.5, 0.5))
    return [
        np.array(ORIGIN)
        + x[i] * SPACING[0] * row
        + y[j] * SPACING[1] * column
        + along * SPACING[2] * np.cross(row, column)
        for i, j in ends
    ]


def read(tmp_path, path, names, **options):
    """The label map on a series of 7 × 6 × 5 voxels, and its notes."""
    scan = read_series(write_series(tmp_path / "scan", **options), tmp_path / "scan")
    volume, notes = read_label_map(path, scan, names)
    assert volume.grid == scan.grid
    np.testing.assert_array_equal(volume.affine, scan.affine)
    return volume.array, notes


# ------------------------------------------------------------------------------------------------------- structure sets


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_contours_are_drawn_on_their_slice_in_any_orientation(tmp_path, name):
    orientation = ORIENTATIONS[name]
    contours = [(box((1, 4), (2, 3), index, orientation), "CLOSED_PLANAR", index) for index in (1, 2)]
    path = write_structures(tmp_path / "rs.dcm", {"liver": contours})
    array, notes = read(tmp_path, path, ["liver"], orientation=orientation)
    expected = np.zeros((7, 6, 5), np.uint8)
    expected[1:5, 2:4, 1:3] = 1
    np.testing.assert_array_equal(array, expected)
    assert notes == []


def test_a_second_contour_of_a_slice_is_a_hole(tmp_path):
    contours = [(box((1, 5), (1, 5), 2), "CLOSEDPLANAR_XOR"), (box((2, 4), (2, 4), 2), "CLOSEDPLANAR_XOR")]
    array, _ = read(tmp_path, write_structures(tmp_path / "rs.dcm", {"ring": contours}), ["ring"])
    assert array[:, :, 2].sum() == 25 - 9
    assert array.sum() == 25 - 9


def test_labels_are_the_names_asked_for_in_their_order(tmp_path):
    regions = {name: [(box((n, n), (0, 0), 0),)] for n, name in enumerate(("a", "b", "c"))}
    array, _ = read(tmp_path, write_structures(tmp_path / "rs.dcm", regions), ["c", "a"])
    assert array[:4, 0, 0].tolist() == [2, 0, 1, 0]


def test_overlaps_are_counted_and_the_later_label_wins(tmp_path):
    regions = {"tumour": [(box((2, 3), (2, 3), 1),)], "liver": [(box((1, 5), (1, 5), 1),)]}
    path = write_structures(tmp_path / "rs.dcm", regions)
    array, notes = read(tmp_path, path, ["liver", "tumour"])
    assert np.bincount(array.ravel()).tolist() == [7 * 6 * 5 - 25, 25 - 4, 4]
    assert len(notes) == 1
    assert all(word in notes[0] for word in ("'liver'", "'tumour'", " 4 voxels"))
    array, _ = read(tmp_path, path, ["tumour", "liver"])
    assert np.bincount(array.ravel()).tolist() == [7 * 6 * 5 - 25, 0, 25]


def test_empty_regions_points_and_open_contours_are_noted(tmp_path):
    inside = box((1, 2), (1, 2), 0)
    regions = {
        "nothing": [],
        "isocentre": [(inside[:1], "POINT")],
        "organ": [(inside,), (inside, "OPEN_PLANAR"), (inside, "OPEN_PLANAR")],
    }
    path = write_structures(tmp_path / "rs.dcm", regions)
    found = read_label_object(path)
    assert (found.kind, found.names, found.series) == ("RTSTRUCT", {3: "organ"}, (uid("study", "one"),))
    assert [any(word in note for note in found.notes) for word in ("'nothing'", "1 of POINT", "2 of OPEN_PLANAR")] == [
        True
    ] * 3
    assert read(tmp_path, path, ["organ"])[0].sum() == 4


def test_two_regions_of_one_name_are_one_label(tmp_path):
    def rename(dataset):
        dataset.StructureSetROISequence[1].ROIName = "node"

    regions = {"node": [(box((0, 1), (0, 1), 0),)], "second": [(box((3, 4), (0, 1), 0),)]}
    path = write_structures(tmp_path / "rs.dcm", regions, change=rename)
    assert any("'node'" in note and "2" in note for note in read_label_object(path).notes)
    assert read(tmp_path, path, ["node"])[0].sum() == 8


def test_contours_between_slices_go_to_the_nearest(tmp_path):
    path = write_structures(tmp_path / "rs.dcm", {"a": [(box((1, 2), (1, 2), 1.3),), (box((1, 2), (1, 2), 1.7),)]})
    array, notes = read(tmp_path, path, ["a"])
    assert array.sum(axis=(0, 1)).tolist() == [0, 4, 4, 0, 0]
    assert notes[0].startswith("2 contours of 'a'")


def test_of_contours_finer_than_the_slices_the_nearest_are_drawn(tmp_path):
    """Drawn at a third of the distance: three to a slice, which would cancel by the even-odd rule if all were drawn."""
    contours = [(box((1, 1 + step), (1, 1), 1 + step / 3),) for step in (-0, 1, 2, 3)]
    array, notes = read(tmp_path, write_structures(tmp_path / "rs.dcm", {"a": contours}), ["a"])
    assert array.sum(axis=(0, 1)).tolist() == [0, 1, 4, 0, 0]
    assert any(note.startswith("2 contours of 'a' are left out") for note in notes)


def test_every_second_slice_is_noted(tmp_path):
    contours = [(box((1, 2), (1, 2), index),) for index in (0, 2, 4)]
    array, notes = read(tmp_path, write_structures(tmp_path / "rs.dcm", {"a": contours}), ["a"])
    assert array.sum(axis=(0, 1)).tolist() == [4, 0, 4, 0, 4]
    assert "'a'" in notes[0]


@pytest.mark.parametrize(
    ("contour", "words"),
    [
        ((box((1, 2), (1, 2), 9),), ["'a'", "9.0", "5"]),
        ((box((1, 2), (1, 2), -0.6),), ["'a'", "-0.6"]),
        ((box((1, 2), (1, 2), 1), "CLOSED_PLANAR", 3), ["'a'", "slice 3", "slice 1.0"]),
        (([(-100, -80, 50), (-98, -80, 50), (-98, -80, 58), (-100, -80, 58)],), ["'a'", "parallel"]),
        (([(-100, -80, 50), (-98, -80, 50)],), ["'a'", "2 points"]),
        (([(-100, -80, 50), (-98, -80, 50), (2e6, -78, 50)],), ["'a'"]),
    ],
)
def test_contours_that_are_not_on_the_series_are_refused(tmp_path, contour, words):
    path = write_structures(tmp_path / "rs.dcm", {"a": [contour]})
    with pytest.raises(ValueError) as caught:
        read(tmp_path, path, ["a"])
    assert all(word in str(caught.value) for word in ["rs.dcm", *words])


def test_another_frame_of_reference_is_refused(tmp_path):
    path = write_structures(tmp_path / "rs.dcm", {"a": [(box((1, 2), (1, 2), 1),)]}, frame="1.2.3.4")
    with pytest.raises(ValueError, match=r"rs\.dcm.*'a'.*1\.2\.3\.4"):
        read(tmp_path, path, ["a"])


# ------------------------------------------------------------------------------------------------- structure sets out


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_written_structure_set_is_read_as_the_same_labels(tmp_path, name):
    files = write_series(tmp_path / "scan", orientation=ORIENTATIONS[name])
    scan = read_series(files, tmp_path / "scan")
    labels = labels_on(scan)
    labels[2, 3, 1] = 0  # a hole
    write_rtstruct(tmp_path / "a.rtstruct.dcm", labels, scan, NAMES, COLORS)
    volume, notes = read_label_map(tmp_path / "a.rtstruct.dcm", scan, [NAMES[1], NAMES[2], NAMES[9]])
    np.testing.assert_array_equal(np.array([0, 1, 2, 9], np.uint8)[volume.array], labels)
    assert notes == []


def test_a_written_structure_set_refers_to_its_images(tmp_path):
    scan = read_series(write_series(tmp_path / "scan"), tmp_path / "scan")
    write_rtstruct(tmp_path / "rs.dcm", labels_on(scan), scan, NAMES, COLORS)
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    assert (dataset.StudyInstanceUID, dataset.PatientID) == (uid("study"), "4711")
    assert [str(roi.ROIName) for roi in dataset.StructureSetROISequence] == ["liver", "left kidney", "Knöchel 左"]
    assert [list(roi.get("ROIDisplayColor", [])) for roi in dataset.ROIContourSequence] == [
        [255, 0, 0],
        [0, 128, 255],
        [],
    ]
    (contour,) = dataset.ROIContourSequence[1].ContourSequence  # one pixel: column 4, row 1 of the first slice
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == uid("study", "one", 0)
    points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
    np.testing.assert_allclose(points.mean(axis=0), np.add(ORIGIN, (4 * 0.7, 0.8, 0)), atol=1e-4)


def test_a_multi_frame_series_is_referred_to_by_frame(tmp_path):
    path = write_enhanced(tmp_path / "scan" / "mr.dcm", order=(4, 3, 2, 1, 0))
    scan = read_series([path], path)
    labels = labels_on(scan)
    write_rtstruct(tmp_path / "rs.dcm", labels, scan, NAMES)
    (contour,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[1].ContourSequence
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 5
    volume, _ = read_label_map(tmp_path / "rs.dcm", scan, [NAMES[1], NAMES[2], NAMES[9]])
    np.testing.assert_array_equal(volume.array > 0, labels > 0)


def test_without_labels_the_regions_are_empty(tmp_path):
    scan = read_series(write_series(tmp_path / "scan"), tmp_path / "scan")
    write_rtstruct(tmp_path / "rs.dcm", np.zeros(scan.grid, np.uint8), scan, NAMES)
    found = read_label_object(tmp_path / "rs.dcm")
    assert (found.names, len(found.notes)) == ({}, 4)


@needs_dciodvfy
@pytest.mark.parametrize("empty", [False, True])
def test_dciodvfy_finds_no_error_in_a_structure_set(tmp_path, empty):
    scan = read_series(write_series(tmp_path / "scan"), tmp_path / "scan")
    labels = np.zeros(scan.grid, np.uint8) if empty else labels_on(scan)
    write_rtstruct(tmp_path / "rs.dcm", labels, scan, NAMES, COLORS)
    run = subprocess.run([shutil.which("dciodvfy"), "-new", str(tmp_path / "rs.dcm")], capture_output=True, text=True)
    assert "Error" not in run.stdout + run.stderr


# -------------------------------------------------------------------------------------------------------- segmentations


def masks_of(*boxes):
    """Masks `(slices, rows, columns, segments)` of a series of 7 × 6 × 5 voxels."""
    masks = np.zeros((5, 6, 7, len(boxes)))
    for index, (columns, rows, slices) in enumerate(boxes):
        masks[slices, rows, columns, index] = 1
    return masks


BOXES = ((slice(1, 4), slice(2, 5), slice(1, 3)), (slice(5, 7), slice(0, 2), slice(0, 1)))


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_each_type_of_segmentation_is_placed_on_its_series(tmp_path, kind):
    files, masks = write_series(tmp_path / "scan"), masks_of(*BOXES)
    if kind == "LABELMAP":
        masks = (masks * [1, 2]).sum(axis=-1)
    masks = masks.astype(float if kind == "FRACTIONAL" else np.uint8)
    path = write_segments(tmp_path / "seg.dcm", files, masks, kind, ["liver", "spleen"])
    array, notes = read(tmp_path, path, ["spleen", "liver"])
    expected = np.zeros((7, 6, 5), np.uint8)
    expected[BOXES[0]], expected[BOXES[1]] = 2, 1
    np.testing.assert_array_equal(array, expected)
    assert notes == []


def test_fractions_of_at_least_a_half_count_and_that_is_noted(tmp_path):
    files, masks = write_series(tmp_path / "scan"), masks_of(BOXES[0])
    masks[1, 2, 1], masks[1, 2, 2], masks[1, 2, 3] = 0.45, 0.502, 0.2
    path = write_segments(tmp_path / "seg.dcm", files, masks, "FRACTIONAL", ["a"], max_fractional_value=250)
    assert any("0.5" in note for note in read_label_object(path).notes)
    assert read(tmp_path, path, ["a"])[0].sum() == 18 - 2


def test_overlapping_segments_are_counted(tmp_path):
    files, masks = write_series(tmp_path / "scan"), masks_of(BOXES[0], (slice(3, 6), slice(4, 6), slice(2, 4)))
    path = write_segments(tmp_path / "seg.dcm", files, masks.astype(np.uint8), "BINARY", ["a", "b"])
    array, notes = read(tmp_path, path, ["a", "b"])
    assert np.bincount(array.ravel()).tolist() == [210 - 18 - 12 + 1, 17, 12]
    assert "1 voxels" in notes[0]


def test_a_segmentation_of_a_few_turned_slices_is_placed_by_its_positions(tmp_path):
    """Written on the series with its columns and rows exchanged and mirrored, as from a NIfTI file."""
    scan = read_series(write_series(tmp_path / "scan"), tmp_path / "scan")
    row, column = (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)
    turned = write_series(
        tmp_path / "turned",
        np.zeros((6, 7, 2), np.uint16),
        orientation=(*row, *column),
        spacing=(0.8, 0.7, 2.5),
        origin=np.add(ORIGIN, (0, 5 * 0.8, 3 * 2.5)),
    )
    mask = np.zeros((2, 7, 6), np.uint8)
    mask[1, 6, 0] = 1  # the last row is the last column of the series, its first column the last row
    path = write_segments(tmp_path / "seg.dcm", turned, mask[..., None], "BINARY", ["a"])
    array = read_label_map(path, scan, ["a"])[0].array
    assert np.argwhere(array).tolist() == [[6, 5, 4]]


def test_a_segmentation_on_another_grid_is_refused(tmp_path):
    off = write_series(tmp_path / "off", origin=np.add(ORIGIN, (0.3, 0, 0)))
    path = write_segments(tmp_path / "seg.dcm", off, masks_of(BOXES[0]).astype(np.uint8), "BINARY", ["a"])
    with pytest.raises(ValueError, match=r"seg\.dcm"):
        read(tmp_path, path, ["a"])


def test_voxels_outside_of_the_series_are_refused(tmp_path):
    files = write_series(tmp_path / "long", np.zeros((7, 6, 8), np.uint16))
    masks = np.zeros((8, 6, 7, 1), np.uint8)
    masks[4:6, 2, 2] = 1
    path = write_segments(tmp_path / "seg.dcm", files, masks, "BINARY", ["a"])
    with pytest.raises(ValueError, match=r"seg\.dcm.*outside"):
        read(tmp_path, path, ["a"])


def test_a_segmentation_without_positions_is_refused(tmp_path):
    files = write_series(tmp_path / "scan")
    path = write_segments(tmp_path / "seg.dcm", files, masks_of(BOXES[0]).astype(np.uint8), "BINARY", ["a"])
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"seg\.dcm.*ImagePositionPatient"):
        read(tmp_path, path, ["a"])


def test_a_cut_file_is_refused(tmp_path):
    files = write_series(tmp_path / "scan")
    path = write_segments(tmp_path / "seg.dcm", files, masks_of(BOXES[0]).astype(np.uint8), "BINARY", ["a"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"seg\.dcm"):
        read(tmp_path, path, ["a"])


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_segmentation_of_this_package_is_read_as_the_same_labels(tmp_path, name):
    scan = read_series(write_series(tmp_path / "scan", orientation=ORIENTATIONS[name]), tmp_path / "scan")
    labels = labels_on(scan)
    write_segmentation(tmp_path / "seg.dcm", labels, scan, NAMES)
    assert read_label_object(tmp_path / "seg.dcm").names == {1: "liver", 2: "left kidney", 3: "Knöchel 左"}
    volume, _ = read_label_map(tmp_path / "seg.dcm", scan, [NAMES[1], NAMES[2], NAMES[9]])
    np.testing.assert_array_equal(np.array([0, 1, 2, 9], np.uint8)[volume.array], labels)


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_damaged_files_are_read_or_refused_by_name(tmp_path, kind):
    files = write_series(tmp_path / "scan")
    scan, path = read_series(files, tmp_path / "scan"), tmp_path / "label.dcm"
    if kind == "SEG":
        write_segments(path, files, masks_of(BOXES[0]).astype(np.uint8), "BINARY", ["a"])
    else:
        write_structures(path, {"a": [(box((1, 2), (1, 2), 1), "CLOSED_PLANAR", 1)]})
    content, rng, messages = path.read_bytes(), np.random.default_rng(3), []
    for index in range(60):
        damaged = bytearray(content)
        if index % 3 == 0:
            del damaged[rng.integers(140, len(damaged)) :]
        else:
            damaged[rng.integers(132, len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            if read_label_object(path):
                read_label_map(path, scan, ["a"])
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all("label.dcm" in message for message in messages)


def test_other_files_are_no_label_objects(tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    (image,) = write_series(tmp_path / "scan", np.zeros((4, 4, 1), np.uint16))
    assert read_label_object(tmp_path / "notes.txt") is None
    assert read_label_object(image) is None
