import numpy as np
import pytest

from samed_hf.pretraining.prompts import choose_masks, draw_box, draw_point, worst_point
from samed_hf.pretraining.synthesis import draw_image, draw_regions


def draw(seed, size=64):
    return draw_image(size, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def images():
    return [draw(seed) for seed in range(40)]


def test_a_seed_gives_one_image():
    first, same, other = draw((3, 1)), draw((3, 1)), draw((3, 2))
    assert all(np.array_equal(*pair) for pair in zip(first, same, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_images_are_in_the_unit_range_and_fill_it(images):
    for image, clean, regions in images:
        assert (image.shape, clean.shape, regions.shape) == ((3, 64, 64), (3, 64, 64), (64, 64))
        assert (image.dtype, regions.dtype) == (np.float32, np.int64)
        assert np.isfinite(clean).all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.max() - image.min() > 0.9


def test_regions_are_numbered_without_a_gap(images):
    counts = {int(regions.max()) + 1 for *_, regions in images}
    assert all(set(np.unique(regions)) == set(range(int(regions.max()) + 1)) for *_, regions in images)
    assert min(counts) <= 4  # few and many
    assert max(counts) >= 12


def test_there_are_grey_images_neighbouring_slices_and_colours(images):
    grey = [image for image, *_ in images if np.array_equal(image[0], image[1]) and np.array_equal(image[1], image[2])]
    assert 8 <= len(grey) <= 24  # 40 % of 40
    # The regions of a colour image have the same borders in all channels, those of neighbouring slices have not.
    others = [(clean, regions) for image, clean, regions in images if not np.array_equal(image[0], image[1])]
    moved = [
        any(np.ptp(clean[0][regions == region]) > 0 for region in range(regions.max() + 1)) for clean, regions in others
    ]
    assert any(moved)
    assert not all(moved)


def test_the_middle_slice_has_the_regions(images):
    for _, clean, regions in images:
        assert all(np.ptp(clean[1][regions == region]) == 0 for region in range(regions.max() + 1))


def test_regions_scale_with_the_image():
    small, large = (draw_regions(size, np.random.default_rng(8)) for size in (64, 128))
    assert small.max() == large.max()
    assert (small == large[::2, ::2]).mean() > 0.9


def test_masks_are_connected_parts_of_the_allowed_size():
    regions = np.zeros((20, 20), int)
    regions[2:8, 2:8] = regions[12:18, 12:18] = 1  # two parts of one region
    regions[0, 10:14] = 2  # too small
    masks = choose_masks(regions, 40, np.random.default_rng(0))
    found = {mask.tobytes() for mask in masks}
    first, second = np.zeros((2, 20, 20), bool)
    first[2:8, 2:8] = second[12:18, 12:18] = True
    assert found == {first.tobytes(), second.tobytes()}
    assert choose_masks(np.zeros((20, 20), int), 4, np.random.default_rng(0)) is None


def test_points_and_boxes_are_of_the_mask():
    mask = np.zeros((10, 12), bool)
    mask[3:5, 6:11] = True
    assert draw_box(mask).tolist() == [6, 3, 11, 5]
    points = [draw_point(mask, np.random.default_rng(seed)) for seed in range(60)]
    assert {(float(x), float(y)) for x, y in points} == {(x + 0.5, y + 0.5) for x in range(6, 11) for y in (3, 4)}
    moved = np.stack([draw_box(mask, np.random.default_rng(seed)) for seed in range(500)])
    assert moved.mean(axis=0) == pytest.approx([6, 3, 11, 5], abs=0.05)
    assert moved.std(axis=0) == pytest.approx([0.25, 0.1, 0.25, 0.1], rel=0.15)


def test_the_worst_point_is_in_the_middle_of_the_largest_error():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    predicted = mask.copy()
    predicted[6:9, 6:9] = False  # 3 x 3 pixels are missing, 5 x 5 are too many
    predicted[15:20, 0:5] = True
    assert [np.array(one).tolist() for one in worst_point(predicted, mask)] == [[2.5, 17.5], 0]
    predicted[15:20, 0:5] = False
    assert [np.array(one).tolist() for one in worst_point(predicted, mask)] == [[7.5, 7.5], 1]
    point, label = worst_point(mask, mask)
    assert label == 1
    assert 9 <= point.min() <= point.max() <= 11
