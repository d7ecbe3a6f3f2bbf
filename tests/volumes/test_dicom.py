import logging
import random
import shutil
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from samed_hf.volumes.dicom import find_series, read_series
from samed_hf.volumes.dicom.headers import is_dicom
from samed_hf.volumes.dicom.series import DicomSeries

from ..dicom_files import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    ORIENTATIONS,
    ORIGIN,
    SHAPE,
    SPACING,
    save,
    series_affine,
    set_pixels,
    stored_scan,
    uid,
    write_enhanced,
    write_series,
)

HU = stored_scan().astype(np.int16) - 1024


def changed(**values):
    """A change of every dataset of a series; `None` removes an element, a function gets the slice's number."""

    def change(dataset, index):
        for keyword, value in values.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value(index) if callable(value) else value)

    return change


def refusal(files, path, error=ValueError):
    with pytest.raises(error) as caught:
        read_series(files, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def by_itk(files):
    """The series as SimpleITK reads it: array, and the affine in RAS+."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


# -------------------------------------------------------------------------------------------------------- regular ones


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_series_has_the_affine_of_simpleitk_and_of_the_formula(tmp_path, name):
    files = write_series(tmp_path, orientation=ORIENTATIONS[name])
    volume = read_series(files, tmp_path)
    array, affine = by_itk(files)
    assert volume.array.dtype == np.int16
    assert volume.path == tmp_path
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.affine, series_affine(ORIENTATIONS[name]), atol=1e-5)
    assert volume.header.notes == ()


def test_orientations_by_letters(tmp_path):
    letters = {}
    for name, orientation in ORIENTATIONS.items():
        files = write_series(tmp_path / name, orientation=orientation)
        letters[name] = read_series(files, tmp_path).orientation
    assert letters == {"axial": "LPS", "sagittal": "PIR", "coronal": "LIP", "flipped": "RAS", "oblique": "LPS"}


def test_neither_names_nor_numbers_nor_the_order_of_files_matter(tmp_path):
    numbers = [3, 0, 4, 1, 2]
    files = write_series(
        tmp_path,
        name=lambda index: ("b", "a.dcm", "z", "IM.IMA", "1")[index],
        change=changed(InstanceNumber=lambda index: numbers[index]),
    )
    random.Random(0).shuffle(files)
    volume = read_series(files, tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    assert [float(dataset.ImagePositionPatient[2]) for dataset in volume.header.datasets] == [50, 52.5, 55, 57.5, 60]


def test_slices_written_from_the_top_down_run_upwards(tmp_path):
    files = write_series(tmp_path / "down", HU[:, :, ::-1] + 1024, origin=(ORIGIN[0], ORIGIN[1], 50.0))
    for index, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], 50.0 + 2.5 * (4 - index)]
        dataset.save_as(file)
    volume = read_series(files, tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    np.testing.assert_allclose(volume.affine, series_affine(), atol=1e-9)


def test_the_header_keeps_what_a_segmentation_needs_and_no_pixels(tmp_path):
    header = read_series(write_series(tmp_path), tmp_path).header
    assert isinstance(header, DicomSeries)
    assert (header.series_uid, header.description, header.modality) == (uid("study", "one"), "one CT", "CT")
    assert [dataset.SOPInstanceUID for dataset in header.datasets] == [uid("study", "one", index) for index in range(5)]
    assert not any("PixelData" in dataset for dataset in header.datasets)
    assert header.frames == (0,) * 5


@pytest.mark.parametrize(
    ("syntax", "preamble"),
    [
        (ImplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, False),
        (ExplicitVRLittleEndian, False),
        (ExplicitVRBigEndian, True),
        (DeflatedExplicitVRLittleEndian, True),
        (RLELossless, True),
        (JPEGLSLossless, True),
        (JPEG2000Lossless, True),
        (JPEGLosslessSV1, True),
    ],
)
def test_however_the_files_are_encoded(tmp_path, syntax, preamble, capfd):
    files = write_series(tmp_path, syntax=syntax, preamble=preamble)
    capfd.readouterr()
    assert all(is_dicom(file) for file in files)
    volume = read_series(find_series(tmp_path)[0].files, tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    assert volume.array.dtype == np.int16
    assert capfd.readouterr() == ("", "")


def constant_blocks_jpeg(blocks):
    """A JPEG Extended stream of 12 bits, each 8 × 8 block of one value: DC coefficients alone, 5 bits per category."""

    def segment(marker, content):
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + bytes(content)

    bits, previous = "", 0
    for value in blocks.ravel().tolist():
        dc = 8 * (value - 2048)
        size, difference, previous = abs(dc - previous).bit_length(), dc - previous, dc
        bits += f"{size:05b}"
        bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}" if size else ""
        bits += "0"  # end of block
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))
    rows, columns = 8 * np.array(blocks.shape)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, [0] + [1] * 64),
            segment(0xC1, [12, 0, rows, 0, columns, 1, 1, 0x11, 0]),
            segment(0xC4, [0, 0, 0, 0, 0, 16, *[0] * 11, *range(16)]),
            segment(0xC4, [0x10, 1, *[0] * 15, 0]),
            segment(0xDA, [1, 1, 0, 0, 63, 0]),
            data.replace(b"\xff", b"\xff\0"),
            b"\xff\xd9",
        ]
    )


def test_jpeg_extended_of_12_bits(tmp_path):
    blocks = np.array([[1000, 2000, 3000], [500, 4000, 2048]])
    (file,) = write_series(tmp_path, np.zeros((24, 16, 1), np.uint16), rescale=(1, 0))
    dataset = pydicom.dcmread(file)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = encapsulate([constant_blocks_jpeg(blocks)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.save_as(file)
    array = read_series([file], tmp_path).array[:, :, 0].T
    np.testing.assert_array_equal(array, np.kron(blocks, np.ones((8, 8), int)))


def test_jpeg_extended_whose_scan_states_no_spectrum(tmp_path):
    blocks = np.array([[1000, 2000], [500, 4000]])
    frame = bytearray(constant_blocks_jpeg(blocks))
    end = frame.index(b"\xff\xda") + 2 + int.from_bytes(frame[frame.index(b"\xff\xda") + 2 :][:2], "big")
    assert frame[end - 3 : end] == b"\0\x3f\0"
    frame[end - 3 : end] = b"\0\0\0"
    (file,) = write_series(tmp_path, np.zeros((16, 16, 1), np.uint16), rescale=(1, 0))
    dataset = pydicom.dcmread(file)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.save_as(file)
    array = read_series([file], tmp_path).array[:, :, 0].T
    np.testing.assert_array_equal(array, np.kron(blocks, np.ones((8, 8), int)))


def test_empty_bytes_after_the_pixels_are_padding(tmp_path):
    def padded(dataset, _):
        dataset.PixelData += bytes(200)

    np.testing.assert_array_equal(read_series(write_series(tmp_path, change=padded), tmp_path).array, HU)


@pytest.mark.slow
@pytest.mark.parametrize(("syntax", "share"), [(JPEGLosslessSV1, 0.8), (JPEGLSLossless, 0.95)])
def test_damaged_jpeg_does_not_become_another_image(tmp_path, syntax, share):
    rng = np.random.default_rng(0)
    scan = rng.normal(1000, 50, (16, 16, 1)).astype(np.uint16)
    (file,) = write_series(tmp_path, scan, syntax=syntax)
    whole = read_series([file], tmp_path).array
    frame = get_frame(pydicom.dcmread(file).PixelData, 0, number_of_frames=1)
    messages = []
    for count in range(12):
        copy, position = bytearray(frame), int(rng.integers(len(frame) // 2, 3 * len(frame) // 4))
        if count % 3 == 0:
            del copy[position:]
        elif count % 3 == 1:
            del copy[position : position + 10]
        else:
            copy[position : position + 20] = rng.bytes(20)
        dataset = pydicom.dcmread(file)
        dataset.PixelData = encapsulate([bytes(copy)])
        dataset.save_as(tmp_path / "damaged")
        try:
            array = read_series([tmp_path / "damaged"], tmp_path).array
        except ValueError as error:
            messages.append(str(error))
        else:
            assert array.shape == whole.shape
    assert len(messages) >= share * 12
    assert all(str(tmp_path / "damaged") in message and "\n" not in message for message in messages)


def test_a_compression_without_a_decoder_is_named(tmp_path):
    files = write_series(tmp_path, syntax=RLELossless)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        dataset.save_as(file)
    message = refusal(files, tmp_path)
    assert "IM0000.dcm" in message
    assert "MPEG2 Main Profile" in message
    assert "1.2.840.10008.1.2.4.100" in message


# ---------------------------------------------------------------------------------------------------------- values


def test_rescaling_of_each_slice_by_itself(tmp_path):
    rescale = [(0.5 + index, -3.0 * index) for index in range(5)]
    files = write_series(tmp_path, modality="PT", rescale=rescale)
    volume = read_series(files, tmp_path)
    assert volume.array.dtype == np.float32
    for index, (slope, intercept) in enumerate(rescale):
        np.testing.assert_allclose(volume.array[:, :, index], stored_scan()[:, :, index] * slope + intercept, rtol=1e-6)


@pytest.mark.parametrize(
    ("stored", "rescale", "dtype"),
    [
        (np.array([0, 4095], np.uint16), (1, -1024), np.int16),
        (np.array([-2000, 3000], np.int16), (1, 0), np.int16),
        (np.array([0, 65535], np.uint16), (1, 0), np.int32),
        (np.array([0, 30000], np.uint16), (2, 10), np.int32),
        (np.array([-30000, 30000], np.int16), (2, -1024), np.int32),
        (np.array([0, 200], np.uint8), (1, 0), np.int16),
        (np.array([0, 200], np.uint8), (0.25, 0), np.float32),
        (np.array([0, 2**20], np.uint32), (3000, 0), np.float32),
    ],
)
def test_the_narrowest_type_that_holds_the_values(tmp_path, stored, rescale, dtype):
    scan = np.zeros((4, 3, 2), stored.dtype)
    scan[0, 1, 0], scan[2, 2, 1] = stored
    volume = read_series(write_series(tmp_path, scan, rescale=rescale), tmp_path)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.array, scan.astype(np.float64) * rescale[0] + rescale[1], rtol=1e-7)


def test_signed_values_of_fewer_bits_than_are_allocated(tmp_path):
    scan = stored_scan(dtype=np.int16) - 1200
    bits = changed(BitsStored=12, HighBit=11)
    # The upper four bits are unused: here they are empty, even for a negative value.
    files = write_series(tmp_path, scan & 0xFFF, rescale=(1, 0), change=bits)
    np.testing.assert_array_equal(read_series(files, tmp_path).array, scan)
    np.testing.assert_array_equal(by_itk(files)[0], scan)


def test_overlays_in_the_unused_bits_are_cut_off(tmp_path):
    def overlay(dataset, _):
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.add_new((0x6000, 0x0100), "US", 16)
        dataset.add_new((0x6000, 0x0102), "US", 12)

    files = write_series(tmp_path, stored_scan() | 0x1000, rescale=(1, 0), change=overlay)
    np.testing.assert_array_equal(read_series(files, tmp_path).array, stored_scan())


def test_padding_stays_and_monochrome1_is_noted(tmp_path):
    scan = stored_scan(dtype=np.int16)
    scan[0] = -2000
    change = changed(PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    volume = read_series(write_series(tmp_path, scan, rescale=(1, 0), change=change), tmp_path)
    np.testing.assert_array_equal(volume.array, scan)
    assert "MONOCHROME1" in volume.header.notes[0]


# -------------------------------------------------------------------------------------------------------- geometry


def test_a_gantry_tilt_shears_the_affine(tmp_path):
    shift = (0.0, 0.7, 0.0)
    volume = read_series(write_series(tmp_path, shift=shift), tmp_path)
    np.testing.assert_allclose(volume.affine, series_affine(shift=shift), atol=1e-5)
    assert "gantry tilt of 15.6°" in volume.header.notes[0]


@pytest.mark.parametrize(("spacing", "jitter"), [(0.6, 0.05), (2.5, 0.05), (5.0, 0.09), (0.1, 0.009)])
def test_rounded_positions_are_a_regular_grid(tmp_path, spacing, jitter):
    signs = [0, 1, -1, 1, 0]

    def round_off(dataset, index):
        dataset.ImagePositionPatient[2] += signs[index] * jitter
        dataset.ImagePositionPatient[0] += -signs[index] * jitter / 2

    sizes = (0.7, 0.8, spacing)
    volume = read_series(write_series(tmp_path, spacing=sizes, change=round_off), tmp_path)
    np.testing.assert_allclose(volume.affine, series_affine(spacing=sizes), atol=1e-9)


@pytest.mark.parametrize(
    ("leave_out", "words"),
    [
        ([2], "between 52.5 and 57.5 mm along the slices' normal: about 1 slice is missing there"),
        ([1, 2], "between 50 and 57.5 mm along the slices' normal: about 2 slices are missing there"),
        ([3], "between 55 and 60 mm along the slices' normal: about 1 slice is missing there"),
    ],
)
def test_missing_slices_are_refused(tmp_path, leave_out, words):
    message = refusal(write_series(tmp_path, leave_out=leave_out), tmp_path)
    assert words in message
    assert "2.5 mm" in message
    assert "copy or export the whole series again" in message


def test_several_gaps_are_counted(tmp_path):
    files = write_series(tmp_path, stored_scan((7, 6, 12)), leave_out=[2, 6, 9])
    assert "between 52.5 and 57.5 mm along the slices' normal (and 2 more gaps)" in refusal(files, tmp_path)


def test_a_gap_along_an_oblique_normal(tmp_path):
    message = refusal(write_series(tmp_path, stored_scan((4, 4, 9)), orientation=OBLIQUE, leave_out=[7]), tmp_path)
    assert "about 1 slice is missing" in message


def test_slices_missing_at_the_ends_leave_a_smaller_volume(tmp_path):
    volume = read_series(write_series(tmp_path, leave_out=[0, 4]), tmp_path)
    np.testing.assert_array_equal(volume.array, HU[:, :, 1:4])


def test_a_drift_that_adds_up_is_refused(tmp_path):
    positions = np.cumsum([0.0] + [1.0] * 20 + [1.08] * 20)

    def move(dataset, index):
        dataset.ImagePositionPatient[2] = positions[index]

    message = refusal(write_series(tmp_path, np.zeros((3, 3, 41), np.uint16), change=move), tmp_path)
    assert "uneven distances, from 1 to 1.08 mm" in message


def test_slices_off_the_line_are_refused(tmp_path):
    def move(dataset, index):
        dataset.ImagePositionPatient[0] += 3 * (index == 2)

    assert "straight line" in refusal(write_series(tmp_path, change=move), tmp_path)


@pytest.mark.parametrize(
    ("change", "step", "words"),
    [
        (changed(), 2.5, "thickness of 2.5 mm is the header's"),
        (changed(SpacingBetweenSlices=-3.0), 3.0, "thickness of 3 mm is the header's"),
        (changed(SliceThickness=None), 1.0, "thickness of 1 mm is assumed"),
        (changed(SliceThickness=""), 1.0, "thickness of 1 mm is assumed"),
    ],
)
def test_a_single_slice(tmp_path, change, step, words):
    volume = read_series(write_series(tmp_path, leave_out=[1, 2, 3, 4], change=change), tmp_path)
    assert volume.array.shape == (7, 6, 1)
    np.testing.assert_allclose(volume.affine, series_affine(spacing=(*SPACING[:2], step)), atol=1e-9)
    assert words in volume.header.notes[0]


# ------------------------------------------------------------------------------------- duplicates and mixed series


def test_duplicates_are_left_out_and_noted(tmp_path):
    files = write_series(tmp_path)
    for name, file in (("copy of 1", files[1]), ("again 1", files[1]), ("0", files[4])):
        shutil.copy(file, tmp_path / name)
    volume = read_series(find_series(tmp_path)[0].files, tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    assert volume.header.notes == ("3 duplicated slices left out",)
    assert len(volume.header.datasets) == 5


def test_the_refusal_of_echoes_names_their_times(tmp_path):
    for echo, time in (("first", 2.3), ("second", 4.6)):
        write_series(
            tmp_path / echo,
            stored_scan() + int(time),
            modality="MR",
            change=changed(EchoTime=time, SOPInstanceUID=lambda index, echo=echo: uid(echo, index)),
        )
    files = [file for series in find_series(tmp_path) for file in series.files]
    message = refusal(files, tmp_path)
    assert f"{tmp_path} holds 2 different images at the same position (50 mm)" in message
    assert "(EchoTime: 2.3, 4.6); move the slices of each stack into a directory of their own" in message


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PixelSpacing", [0.9, 0.7], "different pixel spacings, 0.7×0.8 and 0.7×0.9 mm (IM0000.dcm, IM0003.dcm)"),
        ("ImageOrientationPatient", CORONAL, "different directions of their slices (IM0000.dcm, IM0003.dcm)"),
    ],
)
def test_mixed_stacks_are_refused(tmp_path, keyword, value, words):
    def change(dataset, index):
        if index == 3:
            setattr(dataset, keyword, list(value))

    assert words in refusal(write_series(tmp_path, change=change), tmp_path)


def test_mixed_sizes_are_refused(tmp_path):
    def change(dataset, index):
        if index == 3:
            set_pixels(dataset, np.zeros((5, 7), np.uint16))

    assert "different sizes, 7×6 and 7×5 pixels" in refusal(write_series(tmp_path, change=change), tmp_path)


def test_images_side_by_side_are_refused(tmp_path):
    files = write_series(tmp_path / "a") + write_series(tmp_path / "b", origin=(200, 0, 50))
    assert "side by side in one plane (at 50 mm" in refusal(files, tmp_path)


# ------------------------------------------------------------------------------------------------ what isn't readable


@pytest.mark.parametrize(
    "keyword",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated"],
)
def test_a_missing_element_is_named_with_its_file(tmp_path, keyword):
    def change(dataset, index):
        if index == 2:
            delattr(dataset, keyword)

    message = refusal(write_series(tmp_path, change=change), tmp_path)
    assert str(tmp_path / "IM0002.dcm") in message
    assert f"lacks {keyword}" in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PixelSpacing": [0, 0.7]}, "has PixelSpacing '[0.0, 0.7]', expected 2 numbers above 0"),
        ({"ImagePositionPatient": [1, 2]}, "has ImagePositionPatient '[1.0, 2.0]', expected 3 numbers"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "expected two unit vectors at a right angle"),
        ({"RescaleSlope": 0}, "RescaleSlope 0"),
        ({"BitsStored": 17}, "it stores 17 of 16 bits"),
        ({"PixelData": b"\0" * 80}, "it holds 80 bytes of pixels, expected 84"),
        ({"PixelData": b"\1" * 98}, "it holds 98 bytes of pixels, expected 84"),
        ({"PixelData": None}, "it has no pixels (PixelData)"),
        ({"NumberOfFrames": 3}, "holds 3 frames without their positions"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "holds an image of RGB with 3 values per pixel"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "an image of PALETTE COLOR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a mosaic"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "by a table (ModalityLUTSequence)"),
    ],
)
def test_odd_values_are_refused(tmp_path, values, words):
    def change(dataset, index):
        if index == 1:
            changed(**values)(dataset, index)

    files = write_series(tmp_path, change=change)
    message = refusal(files, tmp_path)
    assert words in message
    assert str(tmp_path / "IM0001.dcm") in message


def test_foreign_missing_and_no_files_are_refused(tmp_path):
    files = write_series(tmp_path)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("nothing for a scanner\n" * 10)
    assert f"{foreign} is not DICOM" in refusal([*files, foreign], tmp_path)
    assert "does not exist" in refusal([*files, tmp_path / "gone"], tmp_path, FileNotFoundError)
    assert "holds no DICOM file" in refusal([], tmp_path, FileNotFoundError)


def test_a_value_against_the_standard_is_no_reason_to_print(tmp_path, capfd, recwarn):
    odd = changed(PatientID="x" * 200, StudyDate="31.01.2024", PatientSex="female", SeriesDescription="a\x07b" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = write_series(tmp_path, change=odd)
    capfd.readouterr()
    recwarn.clear()
    volume = read_series(find_series(tmp_path)[0].files, tmp_path)
    np.testing.assert_array_equal(volume.array, HU)
    assert len(files) == 5
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
    assert volume.header.description.isprintable()


# ------------------------------------------------------------------------------------------------------ multi-frame


def test_an_enhanced_file_is_a_volume(tmp_path):
    file = write_enhanced(tmp_path / "enhanced", orientation=OBLIQUE, rescale=(2, -5), order=[3, 0, 4, 1, 2])
    volume = read_series([file], file)
    np.testing.assert_array_equal(volume.array, stored_scan().astype(int) * 2 - 5)
    np.testing.assert_allclose(volume.affine, series_affine(OBLIQUE), atol=1e-5)
    assert len(volume.header.datasets) == 1
    assert volume.header.frames == (1, 3, 4, 0, 2)


def test_time_points_of_an_enhanced_file_are_refused(tmp_path):
    scan = np.concatenate([stored_scan(), stored_scan() + 1], axis=2)

    def two_times(dataset):
        for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient[2] = 50 + 2.5 * (index % 5)
            group.FrameContentSequence[0].TemporalPositionIndex = 1 + index // 5

    file = write_enhanced(tmp_path / "enhanced", scan, change=two_times)
    assert "holds 2 different images at the same position (50 mm)" in refusal([file], file)
    assert "(TemporalPositionIndex: 1, 2)" in refusal([file], file)


def test_an_enhanced_file_that_contradicts_itself_is_refused(tmp_path):
    def fewer(dataset):
        del dataset.PerFrameFunctionalGroupsSequence[4]

    file = write_enhanced(tmp_path / "enhanced", change=fewer)
    assert "announces 5 frames and describes 4" in refusal([file], file)


# --------------------------------------------------------------------------------------------------------- searching


def test_several_series_in_one_directory(tmp_path, caplog):
    late = write_series(tmp_path, series="late", number=12, name="z{}".format)
    early = write_series(tmp_path, series="early", number=3, name="y{}".format)
    other = write_series(tmp_path / "deep" / "er", series="other", number=5, name="{}.IMA".format)
    caplog.set_level(logging.DEBUG, logger="samed_hf")
    found = find_series(tmp_path)
    assert [(series.number, series.description) for series in found] == [
        (3, "early CT"),
        (5, "other CT"),
        (12, "late CT"),
    ]
    assert [series.files for series in found] == [tuple(early), tuple(other), tuple(late)]
    assert {series.modality for series in found} == {"CT"}
    assert caplog.messages == []


def test_files_given_one_by_one_and_twice(tmp_path):
    files = write_series(tmp_path)
    (series,) = find_series([files[3], tmp_path, files[0]])
    assert series.files == tuple(files)


def test_studies_come_one_after_the_other(tmp_path):
    for study in ("a", "b"):
        for number in (2, 1):
            write_series(tmp_path / f"{number}{study}", study=study, series=str(number), number=number)
    found = find_series(tmp_path)
    assert [series.number for series in found] == [1, 2, 1, 2]
    assert [series.study for series in found] == sorted(uid(study) for study in "aabb")


def test_what_is_no_image_is_left_out_and_counted(tmp_path, caplog):
    files = write_series(tmp_path)
    write_series(tmp_path / "scout", series="scout", change=changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write_series(
        tmp_path / "doc",
        series="doc",
        leave_out=[1, 2, 3, 4],
        change=changed(SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None),
    )
    write_series(tmp_path / "seg", series="seg", leave_out=[2, 3, 4], change=changed(SOPClassUID=SegmentationStorage))
    save(report_object(), tmp_path / "SR")
    (tmp_path / "readme.txt").write_text("hello " * 100)
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_bytes(b"x" * 200)
    caplog.set_level(logging.DEBUG, logger="samed_hf")
    (series,) = find_series(tmp_path)
    assert series.files == tuple(files)
    assert caplog.messages == [
        "skipped     1 structured report (SR), 1 image without a position or in colour, 2 files of another format, "
        "5 localizers, 2 segmentations (SEG)"
    ]


def report_object():
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.5", "SR"
    return dataset


def test_localizers_alone_are_a_series(tmp_path):
    write_series(tmp_path, change=changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert len(find_series(tmp_path)) == 1


def test_images_without_positions_alone_are_found_and_refused_in_reading(tmp_path):
    write_series(tmp_path, change=changed(ImagePositionPatient=None))
    (series,) = find_series(tmp_path)
    assert "lacks ImagePositionPatient" in refusal(series.files, tmp_path)


def test_a_damaged_file_fails_the_one_series_of_its_directory(tmp_path):
    files = write_series(tmp_path / "one")
    write_series(tmp_path / "two", series="two")
    files[2].write_bytes(files[2].read_bytes()[:150])
    found = {series.description: series for series in find_series(tmp_path)}
    assert found["one CT"].files == tuple(files)
    assert str(files[2]) in refusal(found["one CT"].files, tmp_path)
    np.testing.assert_array_equal(read_series(found["two CT"].files, tmp_path).array, HU)


def test_a_damaged_file_among_several_series_fails_by_itself(tmp_path):
    for name in ("one", "two"):
        write_series(tmp_path, series=name, name=(name + "{}").format)
    damaged = tmp_path / "three.dcm"
    damaged.touch()
    found = find_series(tmp_path)
    assert [series.files for series in found if not series.uid] == [(damaged,)]
    assert sum(len(series.files) for series in found) == 11
    assert f"{damaged} is not DICOM" in refusal([damaged], tmp_path)


def test_series_without_uids_are_separated_by_their_directories(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / name, change=changed(SeriesInstanceUID=None, StudyInstanceUID=None))
    found = find_series(tmp_path)
    assert [series.uid for series in found] == ["", ""]
    assert [len(series.files) for series in found] == [5, 5]


def test_a_directory_without_dicom_has_no_series(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG" + b"\0" * 200)
    assert find_series(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        find_series(tmp_path / "gone")


def test_only_headers_are_read_in_searching(tmp_path):
    files = write_series(tmp_path)
    for file in files:
        data = file.read_bytes()
        file.write_bytes(data[: data.rindex(b"\xe0\x7f\x10\x00") + 12])
    (series,) = find_series(tmp_path)
    assert series.files == tuple(files)
    assert "it has no pixels (PixelData), or ends before them" in refusal(series.files, tmp_path)


# ------------------------------------------------------------------------------------------------------------ damage


def damaged(data, seed):
    """A file's bytes, cut short or with some bits flipped, the same for the same seed."""
    chance = random.Random(seed)
    if seed % 4 == 0:
        return data[: chance.randrange(len(data))]
    data = bytearray(data)
    if seed % 4 == 1:
        start = chance.randrange(len(data))
        data[start : start + chance.randrange(1, 40)] = b""
        return bytes(data)
    for _ in range(chance.randrange(1, 6)):
        data[chance.randrange(132 if seed % 3 else 0, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def outcome_of_reading(directory):
    """Read all series of a directory: a volume in order, or one line that names a file."""
    try:
        volumes = [read_series(series.files, directory) for series in find_series(directory)]
    except (ValueError, FileNotFoundError) as error:
        return "refused" if str(directory) in str(error) and "\n" not in str(error) else str(error)
    whole = all(volume.array.shape[2] in (1, 2, 3) and np.isfinite(volume.array).all() for volume in volumes)
    return "read" if whole else "wrong"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"),
    [("explicit", 200), ("implicit", 120), ("bare", 80), ("RLE", 80), ("JPEG", 40), ("enhanced", 120)],
)
def test_damage_ends_in_a_volume_or_in_one_line(tmp_path, kind, count, capfd, recwarn):
    scan = stored_scan((4, 3, 3))
    if kind == "enhanced":
        files = [write_enhanced(tmp_path / "enhanced.dcm", scan)]
    else:
        syntax = {"RLE": RLELossless, "JPEG": JPEGLosslessSV1, "implicit": ImplicitVRLittleEndian}
        files = write_series(tmp_path, scan, syntax=syntax.get(kind, ExplicitVRLittleEndian), preamble=kind != "bare")
    capfd.readouterr()
    whole = files[-1].read_bytes()
    outcomes = set()
    for seed in range(count):
        files[-1].write_bytes(damaged(whole, seed))
        outcomes.add(outcome_of_reading(tmp_path))
    assert outcomes == {"read", "refused"}
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []


def test_odd_names_keep_a_message_on_one_line(tmp_path):
    directory = tmp_path / "a\nb"
    write_series(directory, leave_out=[2], name="x\ny{}".format)
    (series,) = find_series(directory)
    assert "a\\nb has a gap" in refusal(series.files, directory)
    series.files[0].write_bytes(b"x")
    assert "a\\nb/x\\ny0 is not DICOM" in refusal(series.files, directory)


def test_a_flipped_size_does_not_ask_for_all_memory(tmp_path):
    (file,) = write_series(tmp_path, leave_out=[1, 2, 3, 4], change=changed(Rows=65535, Columns=65535))
    assert "SAMED_MAX_PIXELS" in refusal([file], tmp_path)
    (file,) = write_series(tmp_path, leave_out=[1, 2, 3, 4], change=changed(Rows=9999, Columns=9999))
    assert "of pixels, expected" in refusal([file], tmp_path)


def test_shape_constants_are_asymmetric():
    assert len(set(SHAPE)) == len(set(SPACING)) == 3
    assert series_affine(AXIAL)[0, 0] == -SPACING[0]
