"""Zooms of arrays and tensors against scipy's own."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import ndimage

from samed_hf.transforms.zoom import _blocks, nearest_indices, nearest_zoom, spline_band, spline_zoom

SIZES = [
    *[((40, 31), (64, 64)), ((512, 512), (56, 56)), ((9, 50), (9, 20)), ((5, 5), (5, 5)), ((224, 224), (512, 512))],
    *[((248, 229), (224, 224)), ((2, 3), (130, 2)), ((300, 7), (129, 260))],
]


def scipy_zoom(array, size, order):
    factors = [new / old for new, old in zip(size, array.shape[-2:], strict=True)]
    return np.stack([ndimage.zoom(one, factors, order=order) for one in array])


@pytest.mark.parametrize(("size", "new"), SIZES)
@pytest.mark.parametrize("order", [1, 3])
def test_spline_zooms_equal_scipy(size, new, order):
    image = np.random.default_rng(0).random((2, *size))
    expected = scipy_zoom(image, new, order)
    np.testing.assert_allclose(spline_zoom(image, new, order), expected, rtol=0, atol=1e-10)
    for zoomed in (
        spline_zoom(image.astype(np.float32), new, order),
        spline_zoom(torch.from_numpy(image).float(), new, order),
        spline_zoom(torch.from_numpy(image).float()[:, None], new, order)[:, 0],
    ):
        assert zoomed.shape == (2, *new)
        np.testing.assert_allclose(zoomed, expected, rtol=0, atol=3e-6)
    double = spline_zoom(torch.from_numpy(image), new, order)
    assert double.dtype == torch.float64
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_order_0_zooms_equal_scipy(size, new):
    label = np.random.default_rng(0).integers(1, 255, (2, *size), dtype=np.uint8)
    expected = scipy_zoom(label, new, 0)
    for zoomed in (nearest_zoom(label, new), nearest_zoom(torch.from_numpy(label), new).numpy()):
        assert zoomed.dtype == np.uint8
        np.testing.assert_array_equal(zoomed, expected)


def test_zooms_of_any_size_equal_scipy():
    generator = np.random.default_rng(1)
    for _ in range(60):
        size, new, last = (tuple(int(side) for side in generator.integers(2, 90, 2)) for _ in range(3))
        image, label = generator.random((1, *size), np.float32), generator.integers(1, 99, (1, *size))
        np.testing.assert_allclose(
            spline_zoom(image, new), scipy_zoom(image.astype(np.float64), new, 3), rtol=0, atol=1e-5
        )
        expected = scipy_zoom(scipy_zoom(label, new, 0), last, 0)
        for zoomed in (nearest_zoom(label, new, last), nearest_zoom(torch.from_numpy(label), new, last).numpy()):
            np.testing.assert_array_equal(zoomed, expected, err_msg=f"{size} to {new} to {last}")


def test_samples_beyond_the_border_are_0():
    # 223 times 247 / 223 is a little more than 247: scipy's last sample of 248 pixels at 224 lies outside.
    label = np.full((1, 248, 248), 7, dtype=np.uint8)
    assert nearest_indices(248, 224)[-1] == -1
    assert scipy_zoom(label, (224, 224), 0)[0, -1].max() == 0
    for zoomed in (nearest_zoom(label, (224, 224)), nearest_zoom(torch.from_numpy(label), (224, 224)).numpy()):
        assert zoomed[0, -1].max() == zoomed[0, :, -1].max() == 0
        assert zoomed[0, :-1, :-1].min() == 7
    # Enlarged again, these zeros are several rows.
    twice = nearest_zoom(label, (224, 224), (896, 896))
    np.testing.assert_array_equal(twice, scipy_zoom(scipy_zoom(label, (224, 224), 0), (896, 896), 0))
    assert twice[0, -2:].max() == 0


def test_channels_and_batches_are_zoomed_one_by_one():
    image = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    zoomed = spline_zoom(image, (8, 8))
    assert zoomed.shape == (2, 3, 8, 8)
    for place in np.ndindex(2, 3):
        torch.testing.assert_close(zoomed[place], spline_zoom(image[place], (8, 8)))
    assert torch.equal(nearest_zoom(image, (4, 5)), image)


def test_integer_images_are_zoomed_as_floats():
    image = np.array([[0, 100], [100, 0]], dtype=np.int16)
    for zoomed in (spline_zoom(image, (3, 3)), spline_zoom(torch.from_numpy(image), (3, 3)).numpy()):
        assert zoomed.dtype == np.float32
        assert zoomed[1, 1] == pytest.approx(50.0)
    assert spline_zoom(image, (2, 2)).dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_read_only_memory_and_other_memory_orders():
    image = np.random.default_rng(0).random((6, 7), np.float32)
    expected = spline_zoom(image, (9, 9))
    fixed = image.copy()
    fixed.setflags(write=False)
    for other in (fixed, np.asfortranarray(image), image.astype(">f4"), image[::-1][::-1]):
        np.testing.assert_array_equal(spline_zoom(other, (9, 9)), expected)
    turned = torch.from_numpy(image.T.copy()).T
    np.testing.assert_allclose(spline_zoom(turned, (9, 9)), expected, rtol=0, atol=1e-6)


def test_a_zoom_stays_exact_with_reduced_matmul_precision():
    image = torch.rand(2, 224, 224)
    expected = scipy_zoom(image.double().numpy(), (512, 512), 3)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            zoomed = spline_zoom(image, (512, 512))
    finally:
        torch.set_float32_matmul_precision(before)
    assert zoomed.dtype == torch.float32
    np.testing.assert_allclose(zoomed, expected, rtol=0, atol=3e-6)


def test_matrices_made_in_inference_mode_can_be_used_outside_it():
    with torch.inference_mode():
        inside = spline_zoom(torch.ones(1, 11, 13), (17, 19)), nearest_zoom(torch.ones(1, 11, 13), (17, 19))
    label = torch.ones(1, 11, 13, requires_grad=True)
    outside = spline_zoom(label, (17, 19)), nearest_zoom(label, (17, 19))
    outside[1].sum().backward()
    assert label.grad.sum() == 17 * 19
    assert all(torch.equal(one, other) for one, other in zip(inside, outside, strict=True))


def test_matrices_are_cached():
    assert _blocks(10, 20, 3) is _blocks(10, 20, 3)
    assert nearest_indices(10, 20) is nearest_indices(10, 20)
    with pytest.raises(ValueError, match="read-only"):
        nearest_indices(10, 20)[0] = 0


@pytest.mark.parametrize("new", [1, 7, 248, 512])
def test_a_band_holds_every_weight_of_scipys_zoom(new):
    for size in (79, 160, 161, 247, 500):
        starts, band = spline_band(size, new)
        matrix = np.zeros((new, size))
        for row, start in enumerate(starts):
            matrix[row, start : start + band.shape[1]] = band[row]
        expected = ndimage.zoom(np.eye(size), (new / size, 1), order=3)
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-14)


def test_a_long_side_takes_memory_in_proportion_to_its_length():
    """A dense matrix of the identity of 30,000 pixels takes 7.2 GB."""
    image = np.random.default_rng(0).random((2, 30_000), np.float32)
    tracemalloc.start()
    try:
        zoomed = spline_zoom(image, (64, 64))
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    expected = scipy_zoom(image[None].astype(np.float64), (64, 64), 3)[0]
    np.testing.assert_allclose(zoomed, expected, rtol=0, atol=3e-6)
