from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from samed_hf import SamedImageProcessor
from samed_hf.model.image_processing_samed import resize_logits, upsample_logits


def test_hounsfield_units_to_pixel_values():
    processor = SamedImageProcessor(image_size=32)
    scan = np.full((20, 20), 75, dtype=np.int16)
    pixels = processor(scan)["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, torch.full((1, 3, 32, 32), 0.5))


def test_8_bit_images_are_divided_by_255():
    processor = SamedImageProcessor(image_size=16, channel_names=["R", "G", "B"])
    grey = Image.fromarray(np.full((16, 16), 51, dtype=np.uint8))
    red = Image.fromarray(np.dstack([np.full((16, 16), v, dtype=np.uint8) for v in (255, 0, 0)]))
    pixels = processor([grey, red])["pixel_values"]
    torch.testing.assert_close(pixels[0], torch.full((3, 16, 16), 0.2))
    assert pixels[1].mean(dim=(1, 2)).tolist() == [1.0, 0.0, 0.0]
    # A model of one channel sees grey, as its training did: ITU-R 601 weighs red by 0.299.
    pixels = SamedImageProcessor(image_size=16)(red)["pixel_values"]
    torch.testing.assert_close(pixels, torch.full((1, 3, 16, 16), round(0.299 * 255) / 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels_last", [True, False])
def test_an_array_becomes_grey_as_pillow_makes_it(dtype, channels_last):
    colors = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    array = colors.astype(dtype) if channels_last else np.moveaxis(colors.astype(dtype), -1, 0)
    slices = SamedImageProcessor(image_size=16).image_slices(array)
    assert (slices.shape, slices.dtype) == ((1, 9, 11), dtype)
    np.testing.assert_allclose(slices[0], expected, rtol=0, atol=0.5 if dtype == np.float32 else 0)


def test_each_channel_has_its_own_bounds():
    windows = [(0, 10), (0, 100), (-100, 100)]
    processor = SamedImageProcessor(16, windows, channel_names=["a", "b", "c"])
    image = np.stack([np.full((16, 16), value, dtype=np.float32) for value in (5, 20, 50)])
    pixels = processor(image)["pixel_values"][0]
    torch.testing.assert_close(pixels.mean(dim=(1, 2)), torch.tensor([0.5, 0.2, 0.75]))
    percentiles = SamedImageProcessor(16, None, percentiles=(0, 100), channel_names=["a", "b", "c"])
    ramps = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16) * np.array([1, 10, 100])[:, None, None]
    pixels = percentiles(ramps)["pixel_values"][0]
    for index in (1, 2):
        torch.testing.assert_close(pixels[index], pixels[0], rtol=0, atol=1e-6)


def test_rescaled_slices_keep_their_values():
    processor = SamedImageProcessor(image_size=8)
    image = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    np.testing.assert_array_equal(processor(image, rescaled=True)["pixel_values"][0, 1].numpy(), image)


def test_without_a_window_the_percentiles_are_used():
    processor = SamedImageProcessor(image_size=8, intensity_window=None)
    image = np.linspace(100, 900, 64).reshape(8, 8)
    pixels = processor(image)["pixel_values"]
    assert pixels.min() == 0
    assert pixels.max() == 1


def test_save_and_load(tmp_path):
    SamedImageProcessor(96, (0, 80), input_size=48, axis_order=(1, 0, 2)).save_pretrained(tmp_path)
    loaded = SamedImageProcessor.from_pretrained(tmp_path)
    assert (loaded.image_size, loaded.intensity_window, loaded.input_size) == (96, [0, 80], 48)
    assert loaded.axis_order == [1, 0, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"intensity_window": None, "percentiles": (1, 99)},
        {"intensity_window": None, "percentiles": None},
        {"intensity_window": [None, (0, 80)], "channel_names": ["PET", "CT"], "orientation": "LPS"},
        {"context_slices": True, "channel_names": ["T1"]},
    ],
)
def test_every_setting_comes_back(tmp_path, settings):
    processor = SamedImageProcessor(96, **settings)
    processor.save_pretrained(tmp_path)
    loaded = SamedImageProcessor.from_pretrained(tmp_path)
    for name in ("intensity_window", "percentiles", "orientation", "channel_names", "context_slices", "input_size"):
        assert getattr(loaded, name) == getattr(processor, name)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 4)), np.zeros(9), np.full((4, 4), np.nan)])
def test_bad_images(bad):
    with pytest.raises(ValueError, match="images holds"):
        SamedImageProcessor(16)(bad)


def test_bad_settings():
    with pytest.raises(ValueError, match="axis_order is"):
        SamedImageProcessor(16, axis_order=(0, 1, 1))
    with pytest.raises(ValueError, match="window"):
        SamedImageProcessor(16, (5, 5))


def test_post_processing_returns_the_label_of_every_pixel():
    processor = SamedImageProcessor(image_size=16)
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1, :, 2:] = 9.0
    logits[1, 2] = 1.0
    outputs = SimpleNamespace(logits=logits)
    left, right = processor.post_process_semantic_segmentation(outputs, target_sizes=[(10, 20), (7, 5)])
    assert left.shape == (10, 20)
    assert left[:, :7].max() == 0
    assert (left[:, 12:] == 1).all()
    assert (right == 2).all()
    assert right.shape == (7, 5)
    assert processor.post_process_semantic_segmentation(outputs)[0].shape == (16, 16)
    with pytest.raises(ValueError, match="target_sizes has 1 entries for 2 images"):
        processor.post_process_semantic_segmentation(outputs, target_sizes=[(10, 20)])


def test_resizing_logits_inverts_the_zoom_of_the_image():
    # A zoom of the image maps corner pixel to corner pixel: a linear ramp must come back as itself.
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    torch.testing.assert_close(resize_logits(ramp, (9, 9))[0, 0, 4], torch.linspace(0, 1, 9))
    assert upsample_logits(torch.zeros(1, 2, 4, 4), 16).shape == (1, 2, 16, 16)
