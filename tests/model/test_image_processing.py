import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from samed_hf import SamedImageProcessor
from samed_hf.transforms.zoom import nearest_zoom


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


@pytest.mark.parametrize(
    "settings",
    [
        {"axis_order": (0, 1, 1)},
        {"axis_order": 2},
        {"intensity_window": (5, 5)},
        {"intensity_window": "ct"},
        {"intensity_window": [(0, 1), (0, 2)]},
        {"percentiles": (1, 2, 3)},
        {"percentiles": [99, 1]},
        {"image_size": "16"},
        {"image_size": 0},
        {"input_size": 1},
        {"channel_names": "CT"},
        {"channel_names": 3},
        {"orientation": 5},
        {"size": {"height": 16, "width": 32}},
        {"size": {"shortest_edge": 16}},
        {"image_size": 16, "size": 32},
        {"do_normalize": True},
        {"do_rescale": False},
    ],
)
def test_bad_settings(settings):
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=f"{name} (is|has)"):
        SamedImageProcessor(**settings)


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ({"image_size": 24}, {"image_size": 24}),
        ({"size": {"height": 24, "width": 24}}, {"image_size": 24}),
        ({"size": 24, "image_size": 24}, {"image_size": 24}),
        ({"intensity_window": (0, 1000)}, {"intensity_window": (0, 1000)}),
        ({"intensity_window": None}, {"intensity_window": None}),
        ({"intensity_window": None, "percentiles": (10, 90)}, {"intensity_window": None, "percentiles": (10, 90)}),
        ({"input_size": 9}, {"input_size": 9}),
        ({"context_slices": True}, {}),
        ({"image_size": None, "size": None, "do_resize": True, "do_rescale": None, "do_normalize": False}, {}),
        ({"do_convert_rgb": False, "image_mean": [0.5], "image_std": [0.5], "device": "cpu"}, {}),
        ({"rescale_factor": 1 / 255, "disable_grouping": False, "return_tensors": "pt"}, {}),
    ],
)
def test_a_call_can_replace_the_settings(arguments, same):
    image = np.random.default_rng(0).normal(100, 100, (20, 30))
    processor = SamedImageProcessor(16)
    pixels = processor(image, **arguments)["pixel_values"]
    assert torch.equal(pixels, SamedImageProcessor(**{"image_size": 16} | same)(image)["pixel_values"])
    assert (processor.image_size, processor.intensity_window) == (16, [-125, 275])
    processor.size = {"height": 24, "width": 24}
    assert processor(image)["pixel_values"].shape == (1, 3, 24, 24)


@pytest.mark.parametrize(
    "arguments",
    [
        {"extra_argument": 1},
        {"image_sise": 32},
        {"resample": 2},
        {"rescale_factor": 0.5},
        {"do_normalize": True, "image_mean": 0.5, "image_std": 0.5},
        {"do_center_crop": True, "crop_size": 8},
        {"do_pad": True},
        {"input_size": 0},
        {"data_format": "last"},
        {"return_tensors": "tf"},
        {"device": "none"},
        {"device": "cuda:99"},
    ],
)
def test_arguments_that_cannot_be_followed(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=value if isinstance(value, str) else name):
        SamedImageProcessor(16)(np.zeros((20, 30)), **arguments)


def test_segmentation_maps_become_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30), dtype=np.uint8)
    maps = np.random.default_rng(1).integers(0, 5, (2, 20, 30), dtype=np.uint8)
    maps[0, :3] = 255
    Image.fromarray(maps[1]).save(tmp_path / "map.png")
    processor = SamedImageProcessor(16, input_size=12)
    expected = torch.from_numpy(nearest_zoom(maps, (16, 16)).astype(np.int64))
    images = list(images)
    batches = [maps, maps.astype(np.uint16), torch.from_numpy(maps), list(maps), [[maps[0]], maps[1]]]
    for batch in [*batches, [Image.fromarray(maps[0]), tmp_path / "map.png"]]:
        features = processor(images, batch)
        assert torch.equal(features["labels"], expected)
        assert torch.equal(features["pixel_values"], processor(images)["pixel_values"])
    assert torch.equal(processor(images[1], maps[1], image_size=16)["labels"], expected[1:])
    assert np.array_equal(processor(images, maps, do_resize=False, return_tensors="np")["labels"], maps)
    colored = [Image.fromarray(np.dstack([maps[0], maps[0], maps[1]]))] * 2
    for bad in (maps[:1], maps[:, :10], maps.astype(np.float32), [], colored):
        with pytest.raises(ValueError, match="segmentation_maps"):
            processor(images, bad)


def test_steps_can_be_skipped():
    image = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    processor = SamedImageProcessor(16)
    pixels = processor(image, do_rescale=False, do_resize=False)["pixel_values"]
    assert torch.equal(pixels[0], torch.from_numpy(image).float().expand(3, -1, -1))
    images = [image, image[:10]]
    with pytest.raises(ValueError, match=r"\(3, 10, 30\), \(3, 20, 30\)"):
        processor(images, do_resize=False)
    pixels = processor(images, do_resize=False, return_tensors=None)["pixel_values"]
    assert [one.shape for one in pixels] == [(3, 20, 30), (3, 10, 30)]


@pytest.mark.parametrize("names", [["CT"], ["a", "b"], ["R", "G", "B"]])
@pytest.mark.parametrize("settings", [{}, {"intensity_window": None}, {"intensity_window": None, "percentiles": None}])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_tensors_equal_arrays(names, settings, dtype):
    image = np.abs(np.random.default_rng(0).normal(100, 99, (len(names), 20, 30))).astype(dtype)
    processor = SamedImageProcessor(24, input_size=18, channel_names=names, **settings)
    expected = processor(image)["pixel_values"]
    for options in ({}, {"device": "cpu"}):
        pixels = processor(torch.from_numpy(image), **options)["pixel_values"]
        torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [(-125, 275), None])
def test_half_precision_tensors(dtype, window):
    image = torch.arange(0, 256).reshape(16, 16).to(dtype).requires_grad_()
    pixels = SamedImageProcessor(16, window)(image)["pixel_values"]
    assert pixels.dtype == torch.float32
    assert not pixels.requires_grad
    torch.testing.assert_close(
        pixels, SamedImageProcessor(16, window)(image.float())["pixel_values"], atol=2e-3, rtol=0
    )


def test_intensities_in_the_unit_interval_with_a_window_of_hounsfield_units_warn_once(caplog):
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    processor = SamedImageProcessor(16, (-100, 241))
    with caplog.at_level(logging.WARNING):
        for one in (image, torch.from_numpy(image), image):
            processor(one)
        assert len(caplog.records) == 1
        assert "-100 to 241" in caplog.text
        processor([image * 200, np.zeros((20, 20)), (image * 255).astype(np.uint8)])
        processor(image, do_rescale=False)
        processor(image, rescaled=True)
        SamedImageProcessor(16, (0, 2))(image)
        SamedImageProcessor(16, None)(image)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("backend", [{}, {"backend": "pil"}, {"backend": "torchvision"}])
def test_auto_image_processor(tmp_path, backend):
    SamedImageProcessor(96, [None, (0, 80)], channel_names=["PET", "CT"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["size"] == {"height": 96, "width": 96}
    loaded = AutoImageProcessor.from_pretrained(tmp_path, **backend)
    assert type(loaded) is SamedImageProcessor
    assert (loaded.size, loaded.channel_windows) == (content["size"], [None, [0, 80]])
    for change in ({"image_size": 64}, {"size": 64}, {"size": {"height": 64, "width": 64}}):
        assert AutoImageProcessor.from_pretrained(tmp_path, **backend, **change).image_size == 64
    assert AutoImageProcessor.from_pretrained(tmp_path, **backend, image_size=None).image_size == 96
    # As versions before `size` wrote it.
    del content["size"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content | {"from_a_later_version": 1}))
    assert AutoImageProcessor.from_pretrained(tmp_path, **backend).to_dict()["size"] == {"height": 96, "width": 96}
