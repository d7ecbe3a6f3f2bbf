import base64

import numpy as np
import pytest
import torch
from PIL import Image

from samed_hf import SamedImageProcessor


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels_last", [True, False])
def test_an_array_becomes_grey_as_pillow_makes_it(dtype, channels_last):
    colors = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    array = colors.astype(dtype) if channels_last else np.moveaxis(colors.astype(dtype), -1, 0)
    slices = SamedImageProcessor(image_size=16).image_slices(array)
    assert (slices.shape, slices.dtype) == ((1, 9, 11), dtype)
    np.testing.assert_allclose(slices[0], expected, rtol=0, atol=0.5 if dtype == np.float32 else 0)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((5, 4, 5)),
        np.zeros(9),
        np.full((4, 4), np.nan),
        torch.full((4, 4), torch.inf),
        np.zeros((4, 4), complex),
        "no image",
        [np.zeros((4, 4)), None],
    ],
)
def test_bad_images(bad):
    with pytest.raises(ValueError, match="images holds"):
        SamedImageProcessor(16)(bad)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_form_of_a_batch(num_channels):
    colors = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    processor = SamedImageProcessor(16, channel_names=list("RGB")[:num_channels])
    expected = torch.cat([processor(Image.fromarray(one))["pixel_values"] for one in colors])
    first = np.moveaxis(colors, -1, 1)
    alpha = np.concatenate([colors, colors[..., :1]], axis=-1)
    forms = [colors, first, torch.from_numpy(colors), torch.from_numpy(first), list(colors), [list(colors)]]
    forms += [alpha, np.moveaxis(alpha, -1, 1), [Image.fromarray(one) for one in alpha]]
    forms += [[colors[0], torch.from_numpy(first[1])], [colors[:1], Image.fromarray(colors[1])], tuple(alpha)]
    for form in forms:
        assert torch.equal(processor(form)["pixel_values"], expected)
        assert torch.equal(processor(form, disable_grouping=False)["pixel_values"], expected)
    last = processor(colors, data_format="channels_last", return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), expected)
    with pytest.raises(ValueError, match="images is empty"):
        processor([])


def test_input_data_format_decides_where_both_are_possible():
    colors = np.random.default_rng(0).integers(0, 256, (3, 20, 3), dtype=np.uint8)
    processor = SamedImageProcessor(16, channel_names=["R", "G", "B"])
    last = processor(colors, input_data_format="channels_last")["pixel_values"]
    assert torch.equal(last, processor(Image.fromarray(colors))["pixel_values"])
    assert not torch.equal(last, processor(colors)["pixel_values"])


def test_16_bits_are_kept_from_every_source(tmp_path):
    deep = np.linspace(0, 60000, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    text = base64.b64encode((tmp_path / "deep.png").read_bytes()).decode()
    processor = SamedImageProcessor(16, (0, 60000))
    expected = processor(deep)["pixel_values"]
    sources = [str(tmp_path / "deep.png"), tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), text]
    for source in [*sources, f"data:image/png;base64,{text}"]:
        assert torch.equal(processor(source)["pixel_values"], expected)
    assert torch.equal(processor(sources)["pixel_values"][3], expected[0])


def test_limits_and_formats_of_opened_images(tmp_path, monkeypatch):
    processor = SamedImageProcessor(16)
    Image.new("L", (30, 20)).save(tmp_path / "image.png")
    Image.new("L", (30, 20)).save(tmp_path / "image.eps")
    with pytest.raises(OSError, match=r"image\.eps"):  # which Pillow would give to Ghostscript
        processor(tmp_path / "image.eps")
    monkeypatch.setenv("SAMED_MAX_SIDE", "25")
    with pytest.raises(ValueError, match="SAMED_MAX_SIDE"):
        processor(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="600 pixels"):
        processor(tmp_path / "image.png")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        processor("http://127.0.0.1:9/image.png")
