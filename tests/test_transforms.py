import numpy as np
import pytest
from scipy import ndimage

from samed_hf.transforms import (
    SAMED_AUGMENTATION,
    Augmentation,
    augment,
    default_augmentation,
    enlarge,
    nearest_zoom,
    rotate_flip,
    spline_zoom,
    window_intensity,
)


def test_window_by_hand():
    image = np.array([-1000, -125, 75, 275, 3000], dtype=np.int16)
    assert window_intensity(image, (-125, 275)).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert window_intensity(image, (-125, 275)).dtype == np.float32
    with pytest.raises(ValueError, match="window is"):
        window_intensity(image, (275, -125))


@pytest.mark.parametrize(
    ("size", "new"), [((40, 31), (64, 64)), ((512, 512), (56, 56)), ((9, 50), (9, 20)), ((5, 5), (5, 5))]
)
def test_zooms_equal_scipy(size, new):
    generator = np.random.default_rng(0)
    image = generator.random((2, *size))
    label = generator.integers(0, 9, (2, *size))
    factors = (1, new[0] / size[0], new[1] / size[1])
    expected = np.stack([ndimage.zoom(one, factors[1:], order=3) for one in image])
    np.testing.assert_allclose(spline_zoom(image, new), expected, atol=1e-10)
    np.testing.assert_allclose(spline_zoom(image.astype(np.float32), new), expected, atol=3e-6)
    expected = np.stack([ndimage.zoom(one, factors[1:], order=0) for one in label])
    assert (nearest_zoom(label, new) == expected).all()


def test_integer_images_are_zoomed_as_floats():
    image = np.array([[0, 100], [100, 0]], dtype=np.int16)
    assert spline_zoom(image, (3, 3)).dtype == np.float32
    assert spline_zoom(image, (3, 3))[1, 1] == pytest.approx(50.0)


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


def test_the_default_never_mirrors():
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


def test_left_and_right_are_swapped_only_where_no_label_has_a_side():
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


def test_image_and_label_are_scaled_alike_and_gamma_changes_the_image_alone():
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
