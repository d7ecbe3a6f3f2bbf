import numpy as np
import pytest
import torch
from scipy import ndimage

from samed_hf.transforms.augmentation import (
    SAMED_AUGMENTATION,
    Augmentation,
    augment,
    default_augmentation,
    enlarge,
    rotate,
    rotate_flip,
    window_intensity,
)


def test_window_by_hand():
    image = np.array([-1000, -125, 75, 275, 3000], dtype=np.int16)
    assert window_intensity(image, (-125, 275)).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert window_intensity(image, (-125, 275)).dtype == np.float32
    with pytest.raises(ValueError, match="window is"):
        window_intensity(image, (275, -125))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_a_tensor_is_windowed_as_an_array(dtype):
    image = np.random.default_rng(0).integers(0, 255, (3, 20, 20)).astype(dtype)
    for window in ((10, 200), (-0.3, 77.7)):
        of_tensor = window_intensity(torch.from_numpy(image), window)
        assert of_tensor.dtype == torch.float32
        np.testing.assert_array_equal(of_tensor, window_intensity(image, window))


def scipy_rotate(plane, degrees, order):
    return ndimage.rotate(plane, degrees, order=order, reshape=False)


def scipy_enlarge(plane, factor, order):
    centre = (np.array(plane.shape) - 1) / 2
    return ndimage.affine_transform(plane, [1 / factor] * 2, centre - centre / factor, order=order)


ANGLES = [0.0, 90.0, -90.0, 45.0, 180.0, -20.0, 19.0, 7.0, -13.37, 0.02]
FACTORS = [1.0, 2.0, 0.5, 1.5, 1.2, 0.8, 0.9173, 1.0833]


@pytest.mark.parametrize(
    ("change", "scipys", "amounts"), [(rotate, scipy_rotate, ANGLES), (enlarge, scipy_enlarge, FACTORS)]
)
def test_rotation_and_scaling_equal_scipy(change, scipys, amounts):
    generator = np.random.default_rng(0)
    for amount in amounts * 4:
        size = generator.integers(2, 60, 2)
        image, label = generator.random((2, *size), np.float32), generator.integers(1, 99, size).astype(np.uint8)
        np.testing.assert_array_equal(change(label, amount, 0), scipys(label, amount, 0), err_msg=f"{size}, {amount}")
        for channel, linear, nearest in zip(image, change(image, amount, 1), change(image, amount, 0), strict=True):
            assert linear.dtype == np.float32
            np.testing.assert_allclose(linear, scipys(channel.astype(np.float64), amount, 1), rtol=0, atol=1e-5)
            np.testing.assert_array_equal(nearest, scipys(channel, amount, 0))


@pytest.mark.parametrize(("change", "scipys", "amount"), [(rotate, scipy_rotate, 11.0), (enlarge, scipy_enlarge, 1.1)])
def test_splines_of_higher_degree_are_scipys(change, scipys, amount):
    image = np.random.default_rng(0).random((2, 20, 17))
    np.testing.assert_array_equal(change(image, amount, 3), [scipys(one, amount, 3) for one in image])
    whole = (image * 100).astype(np.uint8)
    np.testing.assert_array_equal(change(whole, amount, 1), [scipys(one, amount, 1) for one in whole])
    row = image[0, :1]
    np.testing.assert_array_equal(change(row, amount, 1), scipys(row, amount, 1))


@pytest.mark.parametrize("augmentation", [SAMED_AUGMENTATION, default_augmentation(["liver"])])
def test_draws_in_a_fixed_order_followed_by_scipys_transforms(augmentation):
    """The same draws in the same order as ever, each followed by scipy's own change."""
    image = np.random.default_rng(0).random((40, 40), np.float32)
    label = np.random.default_rng(1).integers(0, 9, (40, 40)).astype(np.uint8)
    for seed in range(25):
        varied, varied_label = augment(image, label, augmentation, np.random.default_rng(seed))
        generator, one, other = np.random.default_rng(seed), image, label
        if augmentation.mirror and generator.random() < augmentation.mirror:
            one, other = one[:, ::-1], other[:, ::-1]
        if generator.random() < augmentation.flip_rot90:
            turns, axis = generator.integers(0, 4), generator.integers(0, 2)
            one, other = (np.flip(np.rot90(array, turns), axis) for array in (one, other))
        elif generator.random() < augmentation.rotation:
            angle = generator.uniform(-20, 20)
            angle = float(np.floor(angle)) if augmentation.whole_degrees else angle
            one, other = scipy_rotate(one, angle, augmentation.order), scipy_rotate(other, angle, 0)
        if augmentation.scaling and generator.random() < augmentation.scaling:
            factor = generator.uniform(0.8, 1.2)
            one, other = scipy_enlarge(one, factor, augmentation.order), scipy_enlarge(other, factor, 0)
        if augmentation.gamma and generator.random() < augmentation.gamma:
            one = np.clip(one, 0, 1) ** np.float32(1.5 ** generator.uniform(-1, 1))
        np.testing.assert_allclose(varied, one, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(varied_label, other)


def test_augmentation_by_hand():
    image = np.arange(6.0).reshape(2, 3)
    assert rotate_flip(image, 1, 0).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_augmentation_is_a_function_of_the_generator():
    image, label = np.random.default_rng(0).random((32, 32)), np.random.default_rng(1).integers(0, 3, (32, 32))
    for augmentation in (Augmentation(), SAMED_AUGMENTATION):
        first = augment(image, label, augmentation, np.random.default_rng((0, 1, 2)))
        again = augment(image, label, augmentation, np.random.default_rng((0, 1, 2)))
        assert all((a == b).all() for a, b in zip(first, again, strict=True))
    results = [augment(image, label, SAMED_AUGMENTATION, np.random.default_rng((0, 0, i)))[0] for i in range(8)]
    assert len({result.tobytes() for result in results}) > 4


def test_the_default_does_not_mirror():
    # A gradient from left to right keeps its direction under rotations of at most 20 degrees.
    image = np.tile(np.linspace(0.2, 1, 33), (33, 1))
    label = (image > 0.6).astype(np.int64)
    for seed in range(30):
        varied, varied_label = augment(image, label, Augmentation(), np.random.default_rng(seed))
        middle = varied[12:21, 8:25]
        assert (np.diff(middle.mean(axis=0)) > 0).all()
        assert set(np.unique(varied_label)) <= {0, 1}


def test_no_augmentation_leaves_the_slice():
    image, label = np.random.default_rng(0).random((8, 8)), np.ones((8, 8), dtype=np.int64)
    varied, same = augment(image, label, Augmentation(rotation=0.0), np.random.default_rng(0))
    assert (varied == image).all()
    assert (same == label).all()


def test_mirroring_only_if_no_label_has_a_side():
    for names, mirror in (
        (["background", "spleen", "liver"], 0.5),
        (["background", "left kidney"], 0.0),
        (["background", "Kidney_Right"], 0.0),
        (["background", "bright spot"], 0.5),
    ):
        assert default_augmentation(names).mirror == mirror
    image, label = np.arange(6.0).reshape(3, 2), np.arange(6).reshape(3, 2)
    mirrored = augment(image, label, Augmentation(mirror=1.0, rotation=0.0), np.random.default_rng(0))
    assert mirrored[0].tolist() == [[1, 0], [3, 2], [5, 4]]
    assert mirrored[1].tolist() == [[1, 0], [3, 2], [5, 4]]


def test_enlarging_by_hand():
    square = np.zeros((5, 5), dtype=np.uint8)
    square[2, 2] = 7
    square[0, 0] = 1
    expected = np.zeros((5, 5), dtype=np.uint8)
    expected[1:4, 1:4] = 7  # the centre stays, the corner leaves
    assert np.array_equal(enlarge(square, 2.5, 0), expected)
    assert np.array_equal(enlarge(square, 1.0, 0), square)
    assert np.array_equal(enlarge(expected, 0.4, 0)[1:4, 1:4], square[1:4, 1:4])


def test_scaling_changes_image_and_label_and_gamma_only_the_image():
    label = np.zeros((31, 40), dtype=np.int64)
    label[10:20, 12:30] = 1
    image = label.astype(np.float32) * 0.5
    for seed in range(5):
        scaled, moved = augment(
            image, label, Augmentation(rotation=0, scaling=1.0, order=0), np.random.default_rng(seed)
        )
        assert np.array_equal(scaled, moved * 0.5)
        assert 0.6 * label.sum() < moved.sum() < 1.5 * label.sum()
        bent, same = augment(image, label, Augmentation(rotation=0, gamma=1.0), np.random.default_rng(seed))
        assert np.array_equal(same, label)
        assert 0.5**1.5 <= bent[15, 20] <= 0.5 ** (1 / 1.5)
        assert bent[0, 0] == 0
        assert bent.dtype == np.float32
