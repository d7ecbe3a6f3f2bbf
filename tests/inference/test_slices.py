import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from samed_hf import SamedForSemanticSegmentation, SamedImageProcessor
from samed_hf.inference import predict_slices, predict_volume
from samed_hf.transforms.slicing import SliceStack
from samed_hf.volumes import Volume, read_volume, write_labels

from ..conftest import TINY_SIZE


@pytest.fixture(scope="module")
def model(tiny_adapter):
    return SamedForSemanticSegmentation.from_pretrained(tiny_adapter)


@pytest.fixture
def scan() -> Volume:
    """An oblique scan of unequal sides in HU."""
    array = np.random.default_rng(0).normal(50, 100, (40, 30, 5)).astype(np.float32)
    affine = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.9, 0, -100], [0, 0, 3, 20], [0, 0, 0, 1.0]])
    return Volume(ndimage.gaussian_filter(array, 2), affine)


def test_labels_do_not_depend_on_the_batch_size(model, scan):
    stack = SliceStack(np.transpose(scan.array, (2, 1, 0)), model.image_processor).scaled()
    results = [predict_slices(model, stack, model.image_processor, batch_size=size) for size in (1, 2, 5, None)]
    assert results[0].shape == (5, 30, 40)
    assert results[0].dtype == np.uint8
    assert len(np.unique(results[0])) > 1
    for result in results[1:]:
        assert (result == results[0]).mean() > 0.999  # float rounding may flip a tie


@pytest.mark.parametrize(
    ("settings", "shape", "channels"),
    [
        ({}, (5, 20, 30), 1),
        ({"intensity_window": None}, (5, 20, 30), 1),
        ({"context_slices": True}, (5, 20, 30), 3),
        ({"channel_names": ["PET", "CT"], "intensity_window": [None, (0, 80)]}, (5, 2, 20, 30), 3),
        ({"channel_names": ["R", "G", "B"]}, (5, 3, 20, 30), 3),
    ],
)
def test_slices_are_scaled_alike_as_arrays_and_as_tensors(settings, shape, channels):
    array = np.random.default_rng(0).normal(50, 100, shape)
    processor = SamedImageProcessor(32, **settings)
    for kind in (np.int16, np.float32, np.float64, ">i2"):
        scan = np.flip(np.ascontiguousarray(array.astype(kind).T).T, axis=0)  # a memory layout that files may have
        for stack in (SliceStack(scan, processor), SliceStack(scan, processor, rescaled=True)):
            raw = stack.read_raw([4, 0, 1])
            assert (raw.dtype, raw.flags.c_contiguous) == (np.float32, True)
            assert stack.read([4, 0, 1]).shape == (3, channels, 20, 30)
            np.testing.assert_array_equal(stack.scale(torch.from_numpy(raw)), stack.read([4, 0, 1]))
        if channels == 1:
            np.testing.assert_array_equal(
                SliceStack(scan, processor).read(range(5))[:, 0], stack_by_hand(processor, scan)
            )


def stack_by_hand(processor, scan):
    (low, high), *_ = processor.intensity_bounds(scan)
    return (np.clip(scan.astype(np.float32), np.float32(low), np.float32(high)) - np.float32(low)) / np.float32(
        high - low
    )


def test_the_first_and_the_last_slice_are_their_own_neighbours():
    processor = SamedImageProcessor(32, intensity_window=(0, 10), context_slices=True)
    stack = SliceStack(np.arange(5.0)[:, None, None].repeat(4, axis=1).repeat(4, axis=2), processor)
    around = [[round(10 * value) for value in one[:, 0, 0]] for one in stack.read(range(5))]
    assert around == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]


def test_empty_slices_are_not_skipped(model, monkeypatch):
    seen = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda pixels, **options: seen.append(len(pixels)) or forward(pixels, **options)
    )
    predict_slices(model, np.zeros((6, 20, 20), np.float32), model.image_processor, batch_size=2)
    assert seen == [2, 2, 2]


def test_the_reference_routine_step_by_step(model):
    """Cubic zoom to the input size, then to the model's; argmax; order-0 zoom to the slice's size."""
    slices = ndimage.gaussian_filter(np.random.default_rng(1).random((2, 36, 52)), (0, 3, 3)).astype(np.float32)
    result = predict_slices(model, slices, model.image_processor, input_size=24, reference_zoom=True)
    for index, image in enumerate(slices):
        small = ndimage.zoom(image, (24 / 36, 24 / 52), order=3)
        pixels = torch.from_numpy(ndimage.zoom(small, TINY_SIZE / 24, order=3))[None, None].expand(-1, 3, -1, -1)
        with torch.no_grad():
            logits = model(pixels.float()).logits
        logits = torch.nn.functional.interpolate(logits, TINY_SIZE, mode="bilinear", align_corners=False)
        expected = ndimage.zoom(logits.argmax(1)[0].numpy(), (36 / TINY_SIZE, 52 / TINY_SIZE), order=0)
        assert np.array_equal(result[index], expected)


def test_labels_are_on_the_grid_of_the_scan(model, scan, tmp_path):
    labels = predict_volume(model, scan)
    assert labels.shape == scan.array.shape
    write_labels(tmp_path / "labels.nii.gz", labels, like=scan)
    written = nib.load(tmp_path / "labels.nii.gz")
    assert np.allclose(written.affine, scan.affine, atol=1e-6)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(read_volume(tmp_path / "labels.nii.gz").array, labels)
    single = Volume(scan.array[..., 2:3], scan.affine)
    assert (predict_volume(model, single)[..., 0] == labels[..., 2]).mean() > 0.999


def test_the_processors_order_of_axes(model, scan, monkeypatch):
    permuted = Volume(np.transpose(scan.array, (1, 2, 0)), scan.affine)  # (y, z, x)
    expected = predict_volume(model, scan)
    monkeypatch.setattr(model.image_processor, "axis_order", [1, 0, 2])
    assert np.array_equal(predict_volume(model, permuted), np.transpose(expected, (1, 2, 0)))


def test_missing_processor_and_nan_are_refused(model, tiny_model, scan):
    with pytest.raises(ValueError, match="no image processor"):
        predict_volume(tiny_model, scan)
    scan.array[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        predict_volume(model, scan)
