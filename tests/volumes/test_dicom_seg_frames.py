"""DICOM segmentations of images without positions: radiographs, photographs, cines."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLEndoscopicImageStorage,
    XRayAngiographicImageStorage,
)

from samed_hf.volumes import Volume, write_labels
from samed_hf.volumes.dicom.series import DicomSeries, read_series

from ..dicom_files import uid, write_enhanced
from .test_dicom_seg import complaints, needs_dciodvfy

NAMES = {1: "liver", 2: "spleen", 3: "left kidney"}
COLORS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)


def image_volume(sop_class, frames, size=(7, 6), **values):
    """A read file of images: zeros, and the header that a segmentation refers to."""
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = sop_class, uid("image", frames)
    header.StudyInstanceUID, header.SeriesInstanceUID = uid("study"), uid("series")
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Doe^Jane", "4711", "", "F"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20240131", "101500", "1", ""
    header.Modality, header.SeriesNumber, header.ReferringPhysicianName = "OT", 3, ""
    header.Columns, header.Rows = size
    header.FrameOfReferenceUID = uid("frame of reference")  # some have one, and no position
    if frames > 1:
        header.NumberOfFrames = frames
    for keyword, value in values.items():
        setattr(header, keyword, value)
    series = DicomSeries((header,), header.SeriesInstanceUID, "", "OT", (), tuple(range(frames)))
    return Volume(np.zeros((*size, frames), np.uint8), np.diag([-1.0, -1, 1, 1]), series, None, True, False)


def write(path, volume, labels):
    write_labels(path, labels, volume, names=NAMES, colors=COLORS)
    return pydicom.dcmread(path)


def labels_of(path, frames):
    """The label map that highdicom reads by the frames of the source, `(frames, rows, columns)`."""
    segmentation = hd.seg.segread(path)
    source = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    options = {"combine_segments": True, "ignore_spatial_locations": True, "assert_missing_frames_are_empty": True}
    if frames == 1:
        return segmentation.get_pixels_by_source_instance([source], **options)
    return segmentation.get_pixels_by_source_frame(source, list(range(1, frames + 1)), **options)


@pytest.mark.parametrize(
    ("sop_class", "frames", "size", "values"),
    [
        (ComputedRadiographyImageStorage, 1, (7, 6), {"PatientOrientation": ["L", "F"]}),
        (SecondaryCaptureImageStorage, 1, (16, 8), {}),
        (
            VLEndoscopicImageStorage,
            1,
            (7, 6),
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionRatio": 12.5,
                "LossyImageCompressionMethod": "ISO_10918_1",
            },
        ),
        (UltrasoundMultiFrameImageStorage, 11, (7, 5), {}),
        (XRayAngiographicImageStorage, 3, (7, 6), {}),
        (MultiFrameGrayscaleByteSecondaryCaptureImageStorage, 1, (7, 6), {"NumberOfFrames": 1}),
    ],
)
def test_each_frame_refers_to_a_frame_of_the_file(tmp_path, sop_class, frames, size, values):
    volume = image_volume(sop_class, frames, size, **values)
    labels = np.random.default_rng(0).integers(0, 3, volume.grid).astype(np.uint8)
    dataset = write(tmp_path / "seg.dcm", volume, labels)
    numbers = labels_of(tmp_path / "seg.dcm", frames)
    np.testing.assert_array_equal(numbers, labels.transpose(2, 1, 0))
    (reference,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (sop_class, uid("image", frames))
    assert "FrameOfReferenceUID" not in dataset
    assert dataset.PatientOrientation == values.get("PatientOrientation", "")
    assert dataset.get("LossyImageCompressionRatio") == values.get("LossyImageCompressionRatio")
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["liver", "spleen"]


def test_frames_without_labels_are_left_out_and_an_empty_map_is_valid(tmp_path):
    volume = image_volume(UltrasoundMultiFrameImageStorage, 4)
    labels = np.zeros(volume.grid, np.uint8)
    labels[2, 3, 2] = 3
    dataset = write(tmp_path / "one.dcm", volume, labels)
    (groups,) = dataset.PerFrameFunctionalGroupsSequence
    assert groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 3
    assert groups.FrameContentSequence[0].DimensionIndexValues == [1, 3]
    assert dataset.SegmentSequence[0].SegmentLabel == "left kidney"
    np.testing.assert_array_equal(np.argwhere(dataset.pixel_array.squeeze()), [[3, 2]])
    empty = write(tmp_path / "empty.dcm", volume, np.zeros_like(labels))
    assert (empty.NumberOfFrames, len(empty.SegmentSequence), empty.pixel_array.max()) == (3, 3, 0)


@needs_dciodvfy
@pytest.mark.parametrize(
    ("sop_class", "frames"),
    [
        (ComputedRadiographyImageStorage, 1),
        (VLEndoscopicImageStorage, 1),
        (UltrasoundMultiFrameImageStorage, 1),
        (UltrasoundMultiFrameImageStorage, 3),
        (XRayAngiographicImageStorage, 2),
    ],
)
def test_dciodvfy_has_nothing_to_say(tmp_path, sop_class, frames):
    volume = image_volume(sop_class, frames, NumberOfFrames=frames, DeidentificationMethod=["a", "b"])
    labels = np.zeros(volume.grid, np.uint8)
    for name in ("empty.dcm", "some.dcm"):
        write(tmp_path / name, volume, labels)
        assert complaints("dciodvfy", tmp_path / name) == []
        labels[1:3, 2:4, -1], labels[5, 5, 0] = 1, 2


def test_an_image_without_uids_is_refused(tmp_path):
    volume = image_volume(ComputedRadiographyImageStorage, 1, SOPInstanceUID="")
    with pytest.raises(ValueError, match="no usable SOPInstanceUID"):
        write(tmp_path / "seg.dcm", volume, np.ones(volume.grid, np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("phase", [0, 1])
def test_a_phase_of_an_enhanced_file_refers_to_its_own_frames(tmp_path, phase):
    def two_phases(dataset):
        pixels = dataset.PixelData
        dataset.PixelData = pixels[: len(pixels) // 2] + bytes(len(pixels) // 2)
        for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            groups.FrameContentSequence[0].TemporalPositionIndex = index // 5 + 1

    path = write_enhanced(tmp_path / "scan" / "file", order=[4, 3, 2, 1, 0, 0, 1, 2, 3, 4], change=two_phases)
    volume = read_series([path], path, frame=phase)
    labels = np.zeros(volume.grid, np.uint8)
    labels[2, 3, 1], labels[3, 4, 4] = 1, 1
    dataset = write(tmp_path / "seg.dcm", volume, labels)
    found = {}
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        found[float(groups.PlanePositionSequence[0].ImagePositionPatient[2])] = reference.ReferencedFrameNumber
    assert found == {52.5: [4, 7][phase], 60.0: [1, 10][phase]}
