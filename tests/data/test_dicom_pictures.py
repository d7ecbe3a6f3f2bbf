"""Data sets of DICOM images without positions and masks, beside other images."""

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage

from samed_hf import SamedImageProcessor
from samed_hf.data import read_data

from ..dicom_files import write_image, write_series

PICTURE = SamedImageProcessor(intensity_window=None, percentiles=None)


@pytest.fixture
def pictures(tmp_path):
    """Three radiographs, dark in the square of their masks, the last one a PNG of the same grey values."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(3):
        stored = np.full((16, 20), 4095, np.uint16)
        stored[2:6, 3:9] = 1365  # MONOCHROME1: bright
        mask = (stored == 1365).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"case{index}.png")
        if index < 2:
            write_image(
                tmp_path / "images" / f"case{index}.dcm",
                stored[None],
                modality="CR",
                kind=ComputedRadiographyImageStorage,
                PhotometricInterpretation="MONOCHROME1",
                BitsStored=12,
                HighBit=11,
            )
        else:
            Image.fromarray(mask * np.uint8(170)).save(tmp_path / "images" / f"case{index}.png")
    return tmp_path


@pytest.mark.parametrize("has_list", [False, True])
def test_radiographs_are_trained_on_as_displayed(pictures, has_list):
    if has_list:
        rows = [f"images/case{index}.{'png' if index == 2 else 'dcm'},masks/case{index}.png" for index in range(3)]
        (pictures / "cases.csv").write_text("\n".join(["image,label", *rows]))
    data = read_data(pictures)
    assert data.is_2d
    assert data.channel_names == ("image",)
    names = [*data.train, *data.validation, *data.test]
    assert len(names) == 3
    for name in names:
        case = data.read_case(name, PICTURE)
        np.testing.assert_allclose(np.unique(case.image), [0, 2 / 3], atol=1e-4)
        np.testing.assert_array_equal(case.label, case.image > 0.5)


def test_dicom_in_colour_has_three_channels(pictures):
    write_image(pictures / "images" / "case1.dcm", np.zeros((1, 16, 20, 3), np.uint8))
    assert read_data(pictures).channel_names == ("R", "G", "B")


def test_slices_are_no_images_and_left_out(pictures):
    write_series(pictures / "images", np.zeros((20, 16, 1), np.uint16), name=lambda _: "case1.dcm")
    data = read_data(pictures)
    assert sorted([*data.train, *data.validation, *data.test]) == ["case0", "case2"]
    assert any("left out" in note and "case1.dcm" in note for note in data.notes)
