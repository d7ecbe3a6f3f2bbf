"""DICOM images without the geometry of a patient: projections, photographs, ultrasound, screenshots."""

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    OphthalmicTomographyImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from samed_hf.volumes.dicom import read_series

from ..dicom_files import write_image

GREY = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
COLOURS = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)


def read(path, **options):
    return read_series([path], path, **options)


def shown(path):
    """The only frame as it is read, `(rows, columns)` or `(rows, columns, 3)`."""
    return read(path).array[:, :, 0].swapaxes(0, 1)


def item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def table(first, entries, bits, vr="US"):
    """An item of VOILUTSequence or ModalityLUTSequence."""
    dataset = Dataset()
    dataset.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    dataset.ModalityLUTType = "US"
    dataset.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return dataset


# ------------------------------------------------------------------------------------------------------------- frames


def test_a_radiograph_of_monochrome1_is_inverted_and_fills_16_bits(tmp_path):
    stored = GREY * 178  # up to 4094
    path = write_image(
        tmp_path / "cr",
        stored,
        modality="CR",
        kind=ComputedRadiographyImageStorage,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        ImagerPixelSpacing=[0.2, 0.3],
    )
    volume = read(path)
    assert volume.is_image
    assert not volume.is_calibrated
    assert volume.array.dtype == np.uint16
    assert volume.array.shape == (6, 4, 1)
    expected = 65535 - np.rint(stored[0].T / 4095 * 65535)
    np.testing.assert_array_equal(volume.array[:, :, 0], expected)
    assert volume.spacing == (1, 1, 1)
    assert volume.header.modality == "CR"
    notes = " ".join(volume.header.notes)
    assert "MONOCHROME1" in notes
    assert "ImagerPixelSpacing 0.3×0.2 mm is not the patient's" in notes


@pytest.mark.parametrize("planar", [0, 1])
def test_a_cine_of_colours(tmp_path, planar):
    pixels = COLOURS if planar == 0 else np.moveaxis(COLOURS, 3, 1)
    path = write_image(tmp_path / "us", COLOURS, modality="US", kind=UltrasoundMultiFrameImageStorage)
    dataset = pydicom.dcmread(path)
    dataset.PlanarConfiguration, dataset.PixelData = planar, pixels.tobytes()
    dataset.save_as(path)
    volume = read(path)
    assert volume.array.dtype == np.uint8
    assert volume.grid == (6, 4, 3)
    assert volume.header.frames == (0, 1, 2)
    np.testing.assert_array_equal(volume.array, COLOURS.transpose(2, 1, 0, 3))


def test_the_number_of_channels_that_a_model_expects(tmp_path):
    colours = write_image(tmp_path / "colours", np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]], np.uint8))
    assert read(colours, num_channels=1).array.ravel().tolist() == [76, 150, 29]  # 0.299, 0.587 and 0.114 of 255
    assert read(colours, num_channels=3).array.shape == (3, 1, 1, 3)
    grey = write_image(tmp_path / "grey", np.array([[[1, 2]]], np.uint8))
    assert read(grey, num_channels=3).array[:, 0, 0].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert read(grey).array.shape == (2, 1, 1)


def test_several_images_in_one_series_are_refused(tmp_path):
    files = [write_image(tmp_path / name, GREY) for name in "ab"]
    with pytest.raises(ValueError, match=r"holds 2 images in colour or without positions.*a and b"):
        read_series(files, tmp_path)


def test_a_radiograph_with_a_position_is_an_image_and_a_frame_without_a_grid_too(tmp_path):
    position = {
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
    }
    path = write_image(tmp_path / "cr", GREY, kind=ComputedRadiographyImageStorage, **position)
    assert read(path).is_image
    radial = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 0])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*row, 0, 0, 1])],
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
        )
        for row in ([1, 0, 0], [0, 1, 0])
    ]
    pixels = np.concatenate([GREY, GREY + 1]).astype(np.uint8)
    kind = OphthalmicTomographyImageStorage
    path = write_image(tmp_path / "opt", pixels, modality="OPT", kind=kind, PerFrameFunctionalGroupsSequence=radial)
    volume = read(path)
    assert volume.is_image
    np.testing.assert_array_equal(volume.array, pixels.transpose(2, 1, 0))
    assert "form no volume" in volume.header.notes[0]


# -------------------------------------------------------------------------------------------------- size of a pixel


def region(units="33", **values):
    x, y = (int(unit) for unit in units)
    usual = {"PhysicalUnitsXDirection": x, "PhysicalUnitsYDirection": y, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.04}
    return item(**usual | values)


@pytest.mark.parametrize(
    ("values", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.4, 0.5]}, (0.5, 0.4)),
        ({"PixelSpacing": [0.4, 0.5], "ImagerPixelSpacing": [0.4, 0.5]}, None),
        ({"PixelSpacing": [0.4, 0.5], "ImagerPixelSpacing": [0.5, 0.6]}, (0.5, 0.4)),
        (
            {"PixelSpacing": [0.4, 0.5], "ImagerPixelSpacing": [0.4, 0.5], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.5, 0.4),
        ),
        ({"NominalScannedPixelSpacing": [0.4, 0.5]}, None),
        ({"PixelSpacing": [0.0, 0.0]}, None),
        ({"SequenceOfUltrasoundRegions": [region()]}, (0.5, 0.4)),
        ({"SequenceOfUltrasoundRegions": [region(), region()]}, (0.5, 0.4)),
        ({"SequenceOfUltrasoundRegions": [region(), region("40", RegionSpatialFormat=4)]}, (0.5, 0.4)),  # an ECG
        ({"SequenceOfUltrasoundRegions": [region(), region("47", RegionSpatialFormat=3)]}, None),  # a spectrum
        ({"SequenceOfUltrasoundRegions": [region(), region(RegionSpatialFormat=1, PhysicalDeltaX=0.1)]}, None),
        ({"SequenceOfUltrasoundRegions": [region("43")]}, None),  # seconds across: a spectrum
    ],
)
def test_only_the_size_of_a_pixel_in_the_patient_calibrates(tmp_path, values, spacing):
    volume = read(write_image(tmp_path / "image", GREY, **values))
    assert volume.is_calibrated == (spacing is not None)
    np.testing.assert_allclose(volume.spacing, (*(spacing or (1, 1)), 1))
    assert volume.orientation == "LPS"


def test_a_ratio_of_the_pixels_sides_is_noted(tmp_path):
    volume = read(write_image(tmp_path / "image", GREY, PixelAspectRatio=[4, 3]))
    assert "PixelAspectRatio 4 to 3" in volume.header.notes[-1]


# ------------------------------------------------------------------------------------------------------------- bits


def test_8_bits_stay_as_they_are(tmp_path):
    stored = np.array([[[0, 7, 255]]], np.uint8)
    np.testing.assert_array_equal(shown(write_image(tmp_path / "image", stored)), stored[0])


@pytest.mark.parametrize("high", [11, 13, 15])
def test_bits_stored_anywhere(tmp_path, high):
    stored = np.array([[[0, 1, 2048, 4095]]], np.uint16)
    noise = np.array([[[1, 0, 1, 0]]], np.uint16)  # an overlay below the value
    pixels = (stored << (high - 11)) + (noise if high > 11 else 0)
    path = write_image(tmp_path / "image", pixels, BitsStored=12, HighBit=high)
    np.testing.assert_array_equal(shown(path), [[0, 16, 32776, 65535]])


def test_16_bits_that_hold_fewer(tmp_path):
    path = write_image(tmp_path / "image", np.array([[[0, 500, 1000]]], np.uint16))
    np.testing.assert_array_equal(shown(path), [[0, 32031, 64062]])  # of 1023
    assert "0 is black, 1023 is white" in read(path).header.notes[1]


def test_signed_values_reach_from_their_lowest_to_their_highest(tmp_path):
    path = write_image(tmp_path / "image", np.array([[[-50, 0, 150]]], np.int16))
    np.testing.assert_array_equal(shown(path), [[0, 64, 255]])
    path = write_image(tmp_path / "image", np.array([[[-500, 0, 1500]]], np.int16))
    np.testing.assert_array_equal(shown(path), [[0, 16384, 65535]])


def test_floating_point_numbers(tmp_path):
    values = np.array([[[-0.5, 0.0, 1.5]]], np.float32)
    path = write_image(tmp_path / "image", np.zeros((1, 1, 3), np.uint32))
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(shown(path), [[0, 16384, 65535]])
    dataset.FloatPixelData = np.array([0, np.nan, 1], np.float32).tobytes()
    dataset.save_as(path)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 3"):
        read(path)


def test_one_bit(tmp_path):
    path = write_image(tmp_path / "image", np.zeros((1, 2, 8), np.uint8))
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.PixelData = 0, bytes([0b00000101, 0b10000000])
    dataset.save_as(path)
    np.testing.assert_array_equal(shown(path), [[255, 0, 255, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 255]])


def test_colours_of_16_and_32_bits(tmp_path):
    stored = np.array([[[[0, 4095, 1024]]]], np.uint16)
    path = write_image(tmp_path / "12", stored, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(shown(path), [[[0, 65535, 16388]]])
    stored = np.array([[[[0, 2**32 - 1, 2**31]]]], np.uint32)
    np.testing.assert_array_equal(shown(write_image(tmp_path / "32", stored)), [[[0, 65535, 32768]]])


# ------------------------------------------------------------------------------------------------ palettes and colours


def palette(bits, entries, count=256, first=0):
    values = {}
    for name, scale in (("Red", 1), ("Green", 2), ("Blue", 3)):
        lut = np.array([entry * scale for entry in entries], "<u2" if bits == 16 else "u1")
        values[f"{name}PaletteColorLookupTableDescriptor"] = [count % 65536, first, bits]
        values[f"{name}PaletteColorLookupTableData"] = lut.tobytes()
    return {"PhotometricInterpretation": "PALETTE COLOR", **values}


@pytest.mark.parametrize("shift", [0, 8])
def test_a_palette_of_8_bits_in_the_lower_or_the_upper_byte(tmp_path, shift):
    entries = np.arange(256) % 80
    path = write_image(tmp_path / "image", np.array([[[0, 1, 79, 255]]], np.uint8), **palette(16, entries << shift))
    assert shown(path).dtype == np.uint8
    np.testing.assert_array_equal(shown(path)[0], [[0, 0, 0], [1, 2, 3], [79, 158, 237], [15, 30, 45]])


def test_a_palette_of_16_bits_and_its_first_index(tmp_path):
    pixels = np.array([[[0, 300, 301, 5000]]], np.uint16)
    entries = np.linspace(0, 21845, 1000).astype(int)
    path = write_image(tmp_path / "image", pixels, **palette(16, entries, 1000, 300))
    expected = [[entries[index] * one for one in (1, 2, 3)] for index in (0, 0, 1, 999)]
    np.testing.assert_array_equal(shown(path)[0], expected)


def test_a_segmented_palette(tmp_path):
    segments = {}
    for name, top in (("Red", 200), ("Green", 100), ("Blue", 0)):
        segments[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        # Two entries of 0, then 254 on a line to the highest.
        data = np.array([0, 2, 0, 0, 1, 254, top], "<u2").tobytes()
        segments[f"Segmented{name}PaletteColorLookupTableData"] = data
    pixels = np.array([[[0, 1, 128, 255]]], np.uint8)
    path = write_image(tmp_path / "image", pixels, PhotometricInterpretation="PALETTE COLOR", **segments)
    np.testing.assert_allclose(shown(path)[0], [[0, 0, 0], [0, 0, 0], [100, 50, 0], [200, 100, 0]], atol=1)


def test_ybr_becomes_rgb(tmp_path):
    pixels = np.array([[[[128, 128, 128], [76, 85, 255]], [[150, 44, 21], [29, 255, 107]]]], np.uint8)
    path = write_image(tmp_path / "image", pixels, PhotometricInterpretation="YBR_FULL")
    expected = [[[128, 128, 128], [254, 0, 0]], [[0, 255, 1], [0, 0, 254]]]
    np.testing.assert_allclose(shown(path).astype(int), expected, atol=1)


def test_subsampled_ybr_and_one_that_is_not(tmp_path):
    path = write_image(tmp_path / "image", np.zeros((1, 1, 2, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    assert shown(path).shape == (1, 2, 3)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes([76, 29, 85, 255])  # two luminances, and the colour of both
    dataset.save_as(path)
    red, dark = shown(path)[0].astype(int)
    np.testing.assert_allclose(red, [254, 0, 0], atol=1)
    np.testing.assert_allclose(dark, [207, 0, 0], atol=1)
    dataset.PixelData = bytes([128, 128, 128, 76, 85, 255])
    dataset.save_as(path)
    np.testing.assert_allclose(shown(path)[0].astype(int), [[128, 128, 128], [254, 0, 0]], atol=1)


def test_what_is_no_colour_is_refused(tmp_path):
    path = write_image(tmp_path / "image", GREY, SamplesPerPixel=4, PhotometricInterpretation="CMYK")
    with pytest.raises(ValueError, match="4 values per pixel"):
        read(path)


# -------------------------------------------------------------------------------------------------- tables and windows


WINDOW = {"WindowCenter": 100, "WindowWidth": 101}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", [0, 0, 0.5, 1, 1]),  # from 49.5 to 149.5
        ("LINEAR_EXACT", [0, 0.5 / 101, 50 / 101, 0.5 + 49.5 / 101, 1]),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (np.array([0, 50, 99.5, 149.5, 4000]) - 100) / 101))),
    ],
)
def test_windows(tmp_path, function, expected):
    stored = np.array([[[0, 50, 99.5, 149.5, 4000]]]) * 2  # rescaled to halves
    path = write_image(
        tmp_path / "image",
        stored.astype(np.uint16),
        **WINDOW,
        VOILUTFunction=function,
        RescaleSlope=0.5,
        RescaleIntercept=0,
        BitsStored=13,
        HighBit=12,
    )
    np.testing.assert_allclose(shown(path)[0] / 65535, expected, atol=0.0051 if function == "LINEAR" else 1e-5)


def test_the_first_of_several_windows_is_noted(tmp_path):
    path = write_image(tmp_path / "image", GREY, WindowCenter=[12, 50], WindowWidth=[10, 20])
    assert any("the first of 2" in note for note in read(path).header.notes)
    assert shown(path).max() == 65535


def test_a_window_without_width_is_none(tmp_path):
    path = write_image(tmp_path / "image", np.array([[[0, 255]]], np.uint8), WindowCenter=0, WindowWidth=0)
    np.testing.assert_array_equal(shown(path), [[0, 255]])


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_voi_table_after_a_modality_table_before_the_inversion(tmp_path, vr):
    stored = np.array([[[0, 10, 11, 12, 255]]], np.uint8)
    path = write_image(
        tmp_path / "image",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        ModalityLUTSequence=[table(10, [100, 200, 300], 16, vr)],
        VOILUTSequence=[table(200, [0] * 50 + [1000] * 60, 10, vr)],
        **WINDOW,
    )
    # 100, 100, 200, 300, 300 by the first table; 0, 0, 0, 1000, 1000 of 1023 by the second.
    white = round(1000 / 1023 * 65535)
    np.testing.assert_array_equal(shown(path)[0], [65535, 65535, 65535, 65535 - white, 65535 - white])


def test_a_modality_table_of_negative_values(tmp_path):
    lut = table(-2, [0, 1, 2, 40000], 16)
    path = write_image(tmp_path / "image", np.array([[[-3, -1, 0, 1, 9]]], np.int16), ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(shown(path), [[0, 1, 2, 40000, 40000]])


def test_frames_have_windows_of_their_own(tmp_path):
    frames = [item(FrameVOILUTSequence=[item(WindowCenter=100.5 * one, WindowWidth=201 * one)]) for one in (1, 2)]
    path = write_image(
        tmp_path / "image",
        np.full((2, 1, 1), 100, np.uint16),
        kind=DigitalXRayImageStorageForPresentation,
        PerFrameFunctionalGroupsSequence=frames,
    )
    np.testing.assert_allclose(read(path).array[0, 0] / 65535, [0.5, 0.25], atol=0.002)


def test_a_damaged_table_is_one_line(tmp_path):
    broken = table(0, [1, 2, 3], 16)
    broken.LUTDescriptor = [300, 0, 16]
    path = write_image(tmp_path / "image", GREY, VOILUTSequence=[broken])
    with pytest.raises(ValueError, match="cannot be applied") as caught:
        read(path)
    assert "\n" not in str(caught.value)
