import re
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import SegmentationStorage

import samed_hf
from samed_hf.volumes import Volume, read_volume
from samed_hf.volumes.dicom import find_series, read_series, write_rtstruct, write_segmentation

from ..dicom_files import AXIAL, OBLIQUE, ORIENTATIONS, stored_scan, uid, write_enhanced, write_series
from .test_dicom import changed, damaged

NAMES = {0: "background", 1: "liver", 2: "left kidney", 3: "liver tumour", 9: "Knöchel 左"}
COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255)]) / 255
needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy isn't here; it comes with Debian's dicom3tools"
)


def labels_on(volume):
    """Three labels of four that are named, none in the last slice."""
    labels = np.zeros(volume.grid, np.uint8)
    labels[1:3, 2:5, 1:3] = 1
    labels[4, 1, 0] = 2
    labels[5:, 5, 2:4] = 9
    return labels


def segmented(directory, files, labels=None, **settings):
    """Read a series, and write labels on it: the volume, the labels and the file."""
    volume = read_series(files, directory)
    labels = labels_on(volume) if labels is None else labels
    path = directory.parent / f"{directory.name}-seg.dcm"
    write_segmentation(path, labels, volume, settings.pop("names", NAMES), COLORS, **settings)
    return volume, labels, path


def by_world(labels, affine):
    """Where each label's voxels lie, in mm."""
    indices = np.argwhere(labels)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    return sorted(
        (int(labels[tuple(index)]), *np.round(point, 3)) for index, point in zip(indices, points, strict=True)
    )


def read_by_highdicom(path):
    """The label map with its numbers by name, `(x, y, z)`, and its affine in RAS+."""
    segmentation = hd.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=True)
    array = volume.array.transpose(2, 1, 0)
    of_name = {name: label for label, name in NAMES.items()}
    lookup = np.array([0, *(of_name[item.SegmentLabel] for item in segmentation.SegmentSequence)])
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine[:, [2, 1, 0, 3]]
    return lookup[array], affine


# --------------------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_keeps_its_position(tmp_path, name):
    volume, labels, path = segmented(tmp_path / name, write_series(tmp_path / name, orientation=ORIENTATIONS[name]))
    array, affine = read_by_highdicom(path)
    assert by_world(array, affine) == by_world(labels, volume.affine)


def test_pydicom_reads_the_same_masks_frame_by_frame(tmp_path):
    _, labels, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan"))
    dataset = pydicom.dcmread(path)
    assert dataset.SOPClassUID == SegmentationStorage
    masks = dataset.pixel_array
    assert masks.shape == (5, 6, 7)
    seen = np.zeros_like(labels)
    label_of = {1: 1, 2: 2, 3: 9}
    for mask, groups in zip(masks, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        slice_ = round((groups.PlanePositionSequence[0].ImagePositionPatient[2] - 50) / 2.5)
        label = label_of[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        seen[:, :, slice_][mask.T == 1] = label
    np.testing.assert_array_equal(seen, labels)
    assert dataset.SegmentsOverlap == "NO"


def test_frames_refer_to_their_source_images(tmp_path):
    _, _, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan"))
    dataset = pydicom.dcmread(path)
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (uid("study"), uid("study", "frame of reference"))
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == uid("study", "one")
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [
        uid("study", "one", index) for index in range(5)
    ]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        slice_ = round((groups.PlanePositionSequence[0].ImagePositionPatient[2] - 50) / 2.5)
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == uid("study", "one", slice_)
        assert source.SpatialLocationsPreserved == "YES"


def test_slices_out_of_order_and_twice_are_referred_to_once(tmp_path):
    files = write_series(tmp_path / "scan", name=lambda index: f"{9 - index}")
    shutil.copy(files[1], tmp_path / "scan" / "again")
    volume, labels, path = segmented(tmp_path / "scan", find_series(tmp_path / "scan")[0].files)
    array, affine = read_by_highdicom(path)
    assert by_world(array, affine) == by_world(labels, volume.affine)
    references = pydicom.dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(references) == 5


def test_a_multi_frame_source(tmp_path):
    order = [3, 0, 4, 1, 2]
    file = write_enhanced(tmp_path / "scan" / "enhanced", orientation=OBLIQUE, order=order)
    volume, labels, path = segmented(tmp_path / "scan", [file])
    array, affine = read_by_highdicom(path)
    assert by_world(array, affine) == by_world(labels, volume.affine)
    dataset = pydicom.dcmread(path)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    origin = volume.header.datasets[0].PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        slice_ = round((position - np.array(origin, float)) @ normal / 2.5)
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert order[source.ReferencedFrameNumber - 1] == slice_


def test_a_tilted_source_and_a_single_slice(tmp_path):
    for name, settings in (("tilt", {"shift": (0, 0.7, 0)}), ("single", {"leave_out": [0, 1, 3, 4]})):
        files = write_series(tmp_path / name, **settings)
        volume = read_series(files, tmp_path / name)
        labels = np.zeros(volume.grid, np.uint8)
        labels[2, 3, -1] = 1
        _, _, path = segmented(tmp_path / name, files, labels)
        dataset = pydicom.dcmread(path)
        (groups,) = dataset.PerFrameFunctionalGroupsSequence
        source = volume.header.datasets[-1]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        np.testing.assert_array_equal(np.argwhere(dataset.pixel_array), [[3, 2]])


# ------------------------------------------------------------------------------------------------------ the segments


def test_segments_carry_name_codes_and_colour(tmp_path):
    _, _, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan"), algorithm="my adapter")
    segmentation = hd.seg.segread(path)
    assert segmentation.segment_numbers == [1, 2, 3]
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["liver", "left kidney", "Knöchel 左"]
    liver, kidney, unknown = segmentation.SegmentSequence
    assert liver.segmented_property_type == hd.sr.CodedConcept("10200004", "SCT", "Liver")
    assert liver.segmented_property_category == hd.sr.CodedConcept("91723000", "SCT", "Anatomical Structure")
    (side,) = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert unknown.segmented_property_type.meaning == "Tissue"
    shown = [hd.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue) for item in (liver, kidney)]
    assert [color.to_rgb() for color in shown] == [(255, 0, 0), (0, 128, 255)]
    assert "RecommendedDisplayCIELabValue" not in unknown  # there is none for label 9
    for item in segmentation.SegmentSequence:
        assert (item.SegmentAlgorithmType, item.SegmentAlgorithmName) == ("AUTOMATIC", "my adapter")


def test_a_tumour_is_abnormal_and_says_where_it_is(tmp_path):
    files = write_series(tmp_path / "scan")
    labels = np.zeros((7, 6, 5), np.int64)
    labels[3, 3, 3] = 3
    _, _, path = segmented(tmp_path / "scan", files, labels)
    (segment,) = hd.seg.segread(path).SegmentSequence
    assert segment.segmented_property_category.value == "49755003"
    assert segment.segmented_property_type.value == "108369006"
    assert [region.value for region in segment.anatomic_regions] == ["10200004"]
    assert "RecommendedDisplayCIELabValue" not in segment


def test_nothing_found_is_a_valid_file_of_empty_frames(tmp_path):
    files = write_series(tmp_path / "scan")
    _, _, path = segmented(tmp_path / "scan", files, np.zeros((7, 6, 5), np.uint8))
    segmentation = hd.seg.segread(path)
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == list(NAMES.values())[1:]
    assert segmentation.NumberOfFrames == 4
    assert not segmentation.pixel_array.any()


@pytest.mark.slow
def test_a_boolean_map_and_many_labels(tmp_path):
    files = write_series(tmp_path / "scan", stored_scan((20, 20, 3)))
    _, _, path = segmented(tmp_path / "scan", files, np.ones((20, 20, 3), bool))
    assert hd.seg.segread(path).pixel_array.all()
    labels = np.arange(1200).reshape(20, 20, 3).astype(np.uint16)
    volume, _, path = segmented(
        tmp_path / "scan", files, labels, names={label: f"part {label}" for label in range(1200)}
    )
    segmentation = hd.seg.segread(path)
    assert segmentation.number_of_segments == 1199
    # Every voxel is a label of its own: its frame says the slice, its number the rest.
    for index in (0, 1, 2):
        mask = segmentation.get_pixels_by_source_instance(
            [volume.header.datasets[index].SOPInstanceUID], combine_segments=True
        )
        np.testing.assert_array_equal(mask[0].T, labels[:, :, index])


def test_what_the_file_says_of_itself(tmp_path):
    volume, labels, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan", number=4))
    dataset = pydicom.dcmread(path)
    assert (dataset.PatientName, dataset.PatientID, dataset.StudyDate) == ("Doe^Jane", "4711", "20240131")
    assert (dataset.SeriesDescription, dataset.SeriesNumber, dataset.Modality) == ("samed_hf segmentation", 1004, "SEG")
    assert (dataset.Manufacturer, dataset.SoftwareVersions) == ("samed_hf", samed_hf.__version__)
    assert "StationName" not in dataset
    assert "InstitutionName" not in dataset
    first = dataset.SOPInstanceUID, dataset.SeriesInstanceUID
    write_segmentation(path, labels, volume, NAMES)
    again = pydicom.dcmread(path)
    assert not {again.SOPInstanceUID, again.SeriesInstanceUID} & set(first)  # it has no colours


# ------------------------------------------------------------------------------------------------- incomplete sources


def test_an_anonymised_source(tmp_path):
    removed = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    change = changed(
        **dict.fromkeys((*removed, "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"), None),
        **dict.fromkeys(("SliceThickness", "SeriesNumber", "Manufacturer", "SeriesDescription"), None),
    )
    volume, labels, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan", change=change))
    dataset = pydicom.dcmread(path)
    assert all(dataset[keyword].is_empty for keyword in removed)
    assert dataset.FrameOfReferenceUID.is_valid
    array, affine = read_by_highdicom(path)
    assert by_world(array, affine) == by_world(labels, volume.affine)


def test_odd_values_of_the_source_are_left_out(tmp_path, recwarn, capfd):
    change = changed(PatientBirthDate="unknown", StudyTime="noon", PatientSex="X", PatientID="A  1", SeriesNumber=-3)
    files = write_series(tmp_path / "scan", change=change)
    recwarn.clear()
    _, _, path = segmented(tmp_path / "scan", files)
    dataset = pydicom.dcmread(path)
    assert (dataset.PatientID, dataset.SeriesNumber) == ("A  1", 1000)
    assert [dataset.PatientBirthDate, dataset.StudyTime, dataset.PatientSex] == ["", "", ""]
    assert list(recwarn) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_source_without_uids_cannot_be_referred_to(tmp_path, keyword):
    files = write_series(tmp_path / "scan", change=changed(**{keyword: None}))
    with pytest.raises(ValueError, match=f"no usable {keyword}.*write .nii.gz"):
        segmented(tmp_path / "scan", files)
    assert not (tmp_path / "scan-seg.dcm").exists()


def test_an_unknown_kind_of_source_is_refused_in_one_line(tmp_path):
    files = write_series(tmp_path / "scan", change=changed(SOPClassUID="1.2.3.4.5"))
    with pytest.raises(ValueError, match="cannot be the source of a DICOM segmentation") as caught:
        segmented(tmp_path / "scan", files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "names", "words"),
    [
        (np.zeros((6, 7, 5), np.uint8), NAMES, "expected \\(7, 6, 5\\) as the scan has"),
        (np.zeros((7, 6, 5), np.float32), NAMES, "dtype float32, expected integers"),
        (np.full((7, 6, 5), 4, np.uint8), NAMES, "holds the labels \\[4\\], for which names \\[1, 2, 3, 9\\] has no"),
        (np.full((7, 6, 5), -1, np.int8), NAMES, "values from -1 to -1"),
        (np.full((7, 6, 5), 70000, np.int32), NAMES, "values from 70000"),
        (np.zeros((7, 6, 5), np.uint8), {0: "background"}, "at least one"),
        (np.zeros((7, 6, 5), np.uint8), {-1: "a"}, "from 1 to 65535"),
    ],
)
def test_a_wrong_label_map_is_refused(tmp_path, array, names, words):
    volume = read_series(write_series(tmp_path / "scan"), tmp_path)
    with pytest.raises(ValueError, match=words):
        write_segmentation(tmp_path / "seg.dcm", array, volume, names)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("color", [(0, 0, 1.5), (0, np.nan, 0), (0, 0)])
def test_a_wrong_colour_is_refused(tmp_path, color):
    volume = read_series(write_series(tmp_path / "scan"), tmp_path)
    with pytest.raises(ValueError, match="for label 1, expected red, green and blue from 0 to 1"):
        write_segmentation(tmp_path / "seg.dcm", labels_on(volume), volume, NAMES, [(0, 0, 0), color])


def test_a_scan_of_another_format_and_a_missing_directory_are_refused(tmp_path):
    volume = Volume(np.zeros((2, 3, 4)), np.eye(4))
    with pytest.raises(ValueError, match=r"seg.dcm would refer to a DICOM series.*write .nii.gz"):
        write_segmentation(tmp_path / "seg.dcm", np.zeros((2, 3, 4), np.uint8), volume, NAMES)
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        write_segmentation(tmp_path / "gone" / "seg.dcm", np.zeros((2, 3, 4), np.uint8), volume, NAMES)


def test_a_failure_leaves_the_older_file(tmp_path, monkeypatch):
    volume, labels, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan"))
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_segmentation(path, labels, volume, NAMES)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scan", "scan-seg.dcm"]


def test_damaged_headers_end_in_a_file_or_in_one_line(tmp_path):
    files = write_series(tmp_path / "scan", stored_scan((7, 6, 3)))
    whole = files[1].read_bytes()
    path = tmp_path / "seg.dcm"
    outcomes = set()
    for seed in range(150):
        files[1].write_bytes(damaged(whole, seed))
        try:
            volume = read_series(files, tmp_path)
        except ValueError:
            continue
        path.unlink(missing_ok=True)
        labels = np.zeros(volume.grid, np.uint8)
        labels[1, 2, 0] = 1
        outcomes.add(outcome_of_writing(path, labels, volume))
    assert outcomes == {"written", "refused"}


def outcome_of_writing(path, labels, volume):
    try:
        write_segmentation(path, labels, volume, NAMES)
    except ValueError as error:
        return "refused" if "\n" not in str(error) and not path.exists() else str(error)
    return "written" if hd.seg.segread(path).pixel_array.sum() == 1 else "wrong"


# --------------------------------------------------------------------------------------------------------- validators


def complaints(*command):
    """What a validator of dicom3tools objects to; it names the object's kind first."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip() not in ("", "Segmentation")]


@needs_dciodvfy
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ct", {"orientation": AXIAL}),
        ("mr", {"modality": "MR", "orientation": OBLIQUE, "rescale": (1, 0)}),
        ("pet", {"modality": "PT", "rescale": (0.5, 0)}),
        ("tilted", {"shift": (0, 0.7, 0)}),
    ],
)
def test_dciodvfy_has_nothing_to_say(tmp_path, name, settings):
    files = write_series(tmp_path / name, **settings)
    _, _, path = segmented(tmp_path / name, files)
    assert complaints("dciodvfy", path) == []
    # Patient, study and frame of reference are the same in source and segmentation.
    assert complaints("dcentvfy", path, *files) == []


@needs_dciodvfy
def test_dciodvfy_has_nothing_to_say_of_the_odd_cases(tmp_path):
    enhanced = write_enhanced(tmp_path / "enhanced" / "file")
    scan = write_series(tmp_path / "scan")
    nothing = np.zeros((7, 6, 5), np.uint8)
    tumour = np.where(stored_scan() > 1200, 3, 0)
    for directory, files, labels in (
        (tmp_path / "enhanced", [enhanced], None),
        (tmp_path / "scan", scan, nothing),
        (tmp_path / "scan", scan, tumour),
        (tmp_path / "scan", scan[2:3], nothing[:, :, :1]),
    ):
        _, _, path = segmented(directory, files, labels)
        assert complaints("dciodvfy", path) == [], directory.name


@needs_dciodvfy
def test_dciodvfy_finds_no_error_after_an_anonymiser(tmp_path):
    removed = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "FrameOfReferenceUID")
    files = write_series(tmp_path / "scan", change=changed(**dict.fromkeys(removed, None)))
    _, _, path = segmented(tmp_path / "scan", files)
    # They may be empty; an index of a medium requires them.
    assert [line for line in complaints("dciodvfy", path) if "needed to build DICOMDIR" not in line] == []


@needs_dciodvfy
def test_dciodvfy_would_say_so(tmp_path):
    _, _, path = segmented(tmp_path / "scan", write_series(tmp_path / "scan"))
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence[0].SegmentAlgorithmType
    dataset.save_as(path)
    assert any(line.startswith("Error") for line in complaints("dciodvfy", path))


def test_the_same_labels_are_the_same_instance(tmp_path):
    """Other labels and names give other UIDs; the dates are the source's."""
    write_series(tmp_path / "a", np.zeros((6, 5, 4), np.uint16))
    for path in (tmp_path / "a").iterdir():
        header = pydicom.dcmread(path)
        header.ContentDate, header.ContentTime = "20010203", "040506"
        header.save_as(path)
    scan = read_volume(tmp_path / "a")
    labels = np.zeros(scan.grid, np.uint8)
    labels[2:4, 1:3, 1:3] = 1
    other = labels.copy()
    other[2, 1, 1] = 0
    variants = {"one": (labels, {1: "liver"}), "other": (other, {1: "liver"}), "spleen": (labels, {1: "spleen"})}
    for name, (array, names) in variants.items():
        write_segmentation(tmp_path / f"{name}.dcm", array, scan, names)
    write_segmentation(tmp_path / "again.dcm", labels, scan, {1: "liver"})
    assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "one.dcm").read_bytes()
    written = {name: pydicom.dcmread(tmp_path / f"{name}.dcm") for name in variants}
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uids = {getattr(dataset, keyword) for dataset in written.values()}
        assert len(uids) == 3
        assert all(re.fullmatch(r"2\.25\.[1-9]\d{1,38}", uid) for uid in uids)
    one = written["one"]
    assert (one.ContentDate, one.ContentTime, one.InstanceCreationDate) == ("20010203", "040506", "20010203")
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    (organization,) = one.DimensionOrganizationSequence
    assert {item.DimensionOrganizationUID for item in one.DimensionIndexSequence} == {
        organization.DimensionOrganizationUID
    }


def test_the_same_labels_are_the_same_structure_set(tmp_path):
    scan = read_series(write_series(tmp_path / "scan"), tmp_path / "scan")
    labels = labels_on(scan)
    for name, array in (("one", labels), ("again", labels), ("other", np.where(labels == 1, 1, 0))):
        write_rtstruct(tmp_path / f"{name}.dcm", array, scan, NAMES)
    assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "one.dcm").read_bytes()
    one, other = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("one", "other"))
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.StructureSetDate == "20240131"  # the study's
