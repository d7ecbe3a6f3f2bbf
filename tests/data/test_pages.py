"""Training images of several pages, or turned by their orientation."""

import json

import numpy as np
import pytest
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.data import read_data

PROCESSOR = SamedImageProcessor(32, intensity_window=None, percentiles=None)


@pytest.fixture
def root(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    (tmp_path / "labels.json").write_text(json.dumps({"0": "background", "1": "cell"}))
    return tmp_path


def save(path, array):
    first, *others = [Image.fromarray(page) for page in array]
    first.save(path, save_all=True, append_images=others)


def test_the_pages_of_an_image_and_its_mask_are_slices_of_a_case(root):
    image = np.random.default_rng(0).integers(0, 256, (4, 9, 7), dtype=np.uint8)
    save(root / "images" / "a.tif", image)
    save(root / "masks" / "a.tif", (image > 128).astype(np.uint8))
    data = read_data(root)
    case = data.read_case("a", PROCESSOR)
    np.testing.assert_allclose(case.image, image / 255, atol=1e-6)
    np.testing.assert_array_equal(case.label, image > 128)
    save(root / "masks" / "a.tif", (image[:3] > 128).astype(np.uint8))
    with pytest.raises(ValueError, match=r"7×9 pixels in 4 pages, but .* 7×9 pixels in 3 pages"):
        read_data(root).read_case("a", PROCESSOR)


def test_a_photograph_fits_the_mask_that_was_drawn_on_it_as_shown(root, caplog):
    caplog.set_level("INFO", logger="samed_hf")
    shown = np.zeros((24, 16), np.uint8)
    shown[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(shown)).save(root / "images" / "a.jpg", exif=exif, quality=95)
    Image.fromarray((shown > 100).astype(np.uint8)).save(root / "masks" / "a.png")
    case = read_data(root).read_case("a", PROCESSOR)
    assert case.image.shape == case.label.shape == (1, 24, 16)
    np.testing.assert_array_equal(case.image > 0.4, case.label == 1)
    assert "turned by its orientation tag, 6" in caplog.text
