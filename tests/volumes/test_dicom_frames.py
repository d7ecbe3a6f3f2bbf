"""DICOM files of many frames: time points, echoes and b-values of a volume, and reconstructions of NM."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import NuclearMedicineImageStorage

from samed_hf.volumes import find_scans, read_frames, write_labels
from samed_hf.volumes.dicom import frame_names, read_series

from ..dicom_files import AXIAL, series_affine, stored_scan, write_enhanced, write_image, write_series

SLICES = stored_scan().shape[2]


def item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def write_frames(path, count, describe, order=None):
    """An enhanced file of volumes whose values rise by 1000 from one to the next; `describe` changes a frame."""
    scan = np.concatenate([stored_scan() + 1000 * part for part in range(count)], axis=2)

    def change(dataset):
        for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            number = (order or range(len(dataset.PerFrameFunctionalGroupsSequence)))[index]
            group.PlanePositionSequence[0].ImagePositionPatient[2] = 50 + 2.5 * (number % SLICES)
            group.FrameContentSequence[0].TemporalPositionIndex = 1
            describe(group, number // SLICES, number % SLICES)

    return write_enhanced(path, scan, order=order, change=change)


def time(group, part, _):
    group.FrameContentSequence[0].TemporalPositionIndex = part + 1


def echo(group, part, _):
    group.MREchoSequence = [item(EffectiveEchoTime=(4.6, 2.3, 12.0)[part])]


def diffusion(group, part, _):
    group.MRDiffusionSequence = [item(DiffusionBValue=(0.0, 500.0, 1000.0)[part])]


def cardiac(group, part, index):
    group.CardiacSynchronizationSequence = [item(NominalCardiacTriggerDelayTime=100.0 * part + index)]


def nothing(group, part, index):
    pass


@pytest.mark.parametrize(
    ("describe", "names", "order"),
    [
        (time, ["phase-1", "phase-2", "phase-3"], (0, 1, 2)),
        (echo, ["echo-1", "echo-2", "echo-3"], (1, 0, 2)),
        (diffusion, ["b-0", "b-500", "b-1000"], (0, 1, 2)),
        (cardiac, ["phase-1", "phase-2", "phase-3"], (0, 1, 2)),
        (nothing, ["phase-1", "phase-2", "phase-3"], (0, 1, 2)),  # the order of the frames is left
    ],
)
def test_frames_of_an_enhanced_file(tmp_path, describe, names, order):
    file = write_frames(tmp_path / "enhanced", 3, describe)
    assert frame_names([file]) == names
    for frame, part in enumerate(order):
        volume = read_series([file], file, frame=frame)
        np.testing.assert_array_equal(volume.array, stored_scan().astype(int) + 1000 * part)
        np.testing.assert_allclose(volume.affine, series_affine(AXIAL), atol=1e-5)
        assert volume.header.frames == tuple(range(part * SLICES, (part + 1) * SLICES))


def test_frames_that_alternate(tmp_path):
    order = [part * SLICES + index for index in range(SLICES) for part in (1, 0)]
    file = write_frames(tmp_path / "enhanced", 2, echo, order)
    volume = read_series([file], file, frame=1)
    np.testing.assert_array_equal(volume.array, stored_scan())
    assert volume.header.frames == (1, 3, 5, 7, 9)


def test_without_a_choice_and_beyond_the_last_frame_is_refused(tmp_path):
    file = write_frames(tmp_path / "enhanced", 2, time)
    with pytest.raises(ValueError, match=r"2 different images .*frame 1 and frame 6.*TemporalPositionIndex: 1, 2"):
        read_series([file], file)
    with pytest.raises(ValueError, match="has 2 frames, expected one of 0 to 1: 2"):
        read_series([file], file, frame=2)


def test_a_volume_and_a_cine_are_one_frame(tmp_path):
    assert frame_names(write_series(tmp_path)) == [""]
    cine = write_image(tmp_path / "cine", np.zeros((4, 3, 2), np.uint8))
    assert frame_names([cine]) == [""]
    colours = write_image(tmp_path / "colours", np.zeros((4, 3, 2, 3), np.uint8))
    assert frame_names([colours]) == [""]


def test_the_frames_of_a_scan_and_their_label_map(tmp_path):
    file = write_frames(tmp_path / "in" / "heart.dcm", 3, time)
    (scan,) = find_scans(file)
    assert scan.suffix == ".nii.gz"
    assert any("3 images at each position" in note for note in scan.notes)
    frames = read_frames(scan, frames=(0, 2))
    assert (frames.count, frames.indices) == (3, (0, 2))
    first, last = frames.volumes
    np.testing.assert_array_equal(last.array - first.array, np.full(stored_scan().shape, 2000))
    assert "its frames: 0 phase-1, 1 phase-2, 2 phase-3" in first.header.notes
    labels = np.stack([first.array > 1200, last.array > 3300], axis=3).astype(np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, last)
    written = nib.load(tmp_path / "labels.nii.gz")
    assert written.shape == (*stored_scan().shape, 2)
    np.testing.assert_allclose(written.affine, series_affine(AXIAL), atol=1e-4)
    with pytest.raises(ValueError, match="1 image, expected 3"):
        next(read_frames(scan, num_channels=3).volumes)


# ------------------------------------------------------------------------------------------------------------------ NM


def write_nuclear(path, step, **values):
    detector = item(ImagePositionPatient=[-10.0, -20.0, 30.0], ImageOrientationPatient=list(AXIAL))
    return write_image(
        path,
        stored_scan().transpose(2, 1, 0),
        modality="NM",
        kind=NuclearMedicineImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        DetectorInformationSequence=[detector],
        PixelSpacing=[4.0, 3.0],
        SliceThickness=abs(step),
        SpacingBetweenSlices=step,
        **values,
    )


@pytest.mark.parametrize("step", [5.0, -5.0])
def test_a_reconstruction_of_nm_is_a_volume(tmp_path, step):
    file = write_nuclear(tmp_path / "nm", step, SliceVector=list(range(1, SLICES + 1)))
    volume = read_series([file], file)
    assert not volume.is_image
    # A negative distance stacks the slices downwards; the volume runs upwards all the same.
    np.testing.assert_array_equal(volume.array, stored_scan()[:, :, :: int(np.sign(step))])
    np.testing.assert_allclose(volume.spacing, (3, 4, 5))
    bottom = 30.0 if step > 0 else 30.0 - 4 * 5
    np.testing.assert_allclose(volume.affine[:3, 3], [10, 20, bottom])


def test_labels_of_nm_refer_to_its_frames(tmp_path):
    file = write_nuclear(tmp_path / "nm", -5.0)
    volume = read_series([file], file)
    labels = np.zeros(volume.grid, np.uint8)
    labels[2:4, 1, 0] = 1  # the lowest slice, the last frame
    write_labels(tmp_path / "labels.dcm", labels, volume, names={1: "liver"})
    written = pydicom.dcmread(tmp_path / "labels.dcm")
    (frame,) = written.PerFrameFunctionalGroupsSequence
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == SLICES
    assert written.pixel_array.sum() == 2


def test_gated_nm_has_frames(tmp_path):
    file = write_nuclear(tmp_path / "nm", 5.0)
    dataset = pydicom.dcmread(file)
    dataset.ImageType[2] = "RECON GATED TOMO"
    dataset.NumberOfFrames, dataset.SliceVector = 2 * SLICES, [*range(1, SLICES + 1)] * 2
    dataset.PixelData = dataset.PixelData + (stored_scan() + 1).transpose(2, 1, 0).tobytes()
    dataset.save_as(file)
    assert frame_names([file]) == ["phase-1", "phase-2"]
    np.testing.assert_array_equal(read_series([file], file, frame=1).array, stored_scan() + 1)


def test_a_projection_of_nm_is_images(tmp_path):
    file = write_nuclear(tmp_path / "nm", 5.0)
    dataset = pydicom.dcmread(file)
    dataset.ImageType[2] = "TOMO"
    dataset.save_as(file)
    volume = read_series([file], file)
    assert volume.is_image
    assert volume.grid == stored_scan().shape
