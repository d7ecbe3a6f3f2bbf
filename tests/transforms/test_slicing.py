"""Slices and the intensities of their channels."""

import numpy as np
import pytest
import torch

from samed_hf import SamedImageProcessor
from samed_hf.transforms import SliceStack, cut_slices, image_bounds, join_slices
from samed_hf.volumes import Volume

CHANNELS = ["PET", "CT", "MR"]


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(("windows", "percentiles"), [([(0, 10), (-100, 300), (0, 50)], None), (None, (0, 100))])
def test_each_channel_is_scaled_by_its_own_bounds(number, windows, percentiles):
    ranges = [(0.0, 10.0), (-100.0, 300.0), (0.0, 50.0)][:number]
    windows = None if windows is None else windows[:number]
    settings = {} if percentiles is None else {"percentiles": percentiles}
    processor = SamedImageProcessor(32, windows, channel_names=CHANNELS[:number], **settings)
    share = np.linspace(0, 1, 2 * 8 * 9).reshape(2, 8, 9)
    scan = np.stack([low + share * (high - low) for low, high in ranges], axis=1).astype(np.float32)
    assert np.allclose(processor.intensity_bounds(scan), ranges)
    assert np.allclose(image_bounds(scan, processor), ranges)
    stack = SliceStack(scan, processor)
    expected = np.repeat(share[:, None], 3, axis=1)
    np.testing.assert_allclose(stack.read([0, 1]), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stack.scale(torch.from_numpy(stack.read_raw([0, 1]))), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stack.scaled(), expected[:, :number], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "orientation"), [((1, 4, 5), "LPS"), ((4, 1, 5), "LPS"), ((4, 5, 1), "RAS")])
def test_a_scan_of_one_slice_is_cut_in_its_own_plane(shape, orientation):
    processor = SamedImageProcessor(32, orientation=orientation)
    array = np.arange(20.0).reshape(shape)
    volume = Volume(array, np.diag([-1, -1, 3, 1]))
    slices = cut_slices(volume, processor)
    assert slices.shape == (1, 5, 4)
    np.testing.assert_array_equal(join_slices(slices, volume, processor), array)
    thin = Volume(np.zeros((1, 1, 5)), np.eye(4))
    assert cut_slices(thin, processor).shape == (5, 1, 1)
