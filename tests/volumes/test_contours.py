"""Contours against shapes whose pixels can be counted by hand."""

import numpy as np
import pytest

from samed_hf.volumes.dicom.contours import fill_contours, trace_contours


def square(low, high):
    return np.array([(low, low), (high, low), (high, high), (low, high)], float)


def test_a_pixel_is_inside_if_its_centre_is():
    mask = fill_contours([square(1.5, 4.5)], (8, 7))
    assert np.argwhere(mask).tolist() == [[x, y] for x in (2, 3, 4) for y in (2, 3, 4)]
    assert fill_contours([square(2.1, 2.9)], (8, 7)).sum() == 0


def test_a_pixel_is_inside_if_its_centre_is_on_the_contour():
    """As of contours through the centres of the outermost pixels, which OpenCV finds, written with few decimals."""
    through_centres = np.array([(1, 1), (3, 1.0001), (2.9999, 4), (1, 4)])
    assert np.argwhere(fill_contours([through_centres], (8, 8))).tolist() == [
        [x, y] for x in (1, 2, 3) for y in (1, 2, 3, 4)
    ]
    line = np.array([(1, 2), (2, 3), (4, 3), (2, 3)])  # there and back
    assert np.argwhere(fill_contours([line], (8, 8))).tolist() == [[1, 2], [2, 3], [3, 3], [4, 3]]


@pytest.mark.parametrize("radius", [0.6, 7.3, 40.25])
def test_a_disc_has_the_pixels_whose_centres_are_within_its_radius(radius):
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    disc = np.column_stack([50.13 + radius * np.cos(angle), 47.71 + radius * np.sin(angle)])
    x, y = np.indices((101, 97))
    np.testing.assert_array_equal(fill_contours([disc], (101, 97)), np.hypot(x - 50.13, y - 47.71) < radius)


def test_a_contour_inside_another_is_a_hole_and_one_inside_that_an_island():
    mask = fill_contours([square(0.5, 9.5), square(2.5, 7.5), square(4.5, 5.5)], (11, 11))
    assert mask.sum() == 9 * 9 - 5 * 5 + 1
    assert (mask[1, 1], mask[3, 3], mask[5, 5]) == (True, False, True)


def test_a_channel_to_a_hole_has_no_width():
    """One polygon: the square, a channel at an odd angle, and the hole in the other direction."""
    outer, hole = square(0.5, 9.5), square(3.5, 6.5)[::-1]
    keyhole = np.concatenate([outer, outer[:1], hole[[3, 0, 1, 2, 3]], outer[:1]])
    np.testing.assert_array_equal(
        fill_contours([keyhole], (11, 11)), fill_contours([outer, square(3.5, 6.5)], (11, 11))
    )


def test_what_lies_outside_of_the_image_is_cut_off():
    assert fill_contours([square(-20.5, 2.5)], (5, 6)).sum() == 3 * 3
    assert fill_contours([square(-20.5, 90.5)], (5, 6)).all()
    assert not fill_contours([square(7.5, 90.5)], (5, 6)).any()


def test_tracing_and_filling_restores_any_mask():
    rng = np.random.default_rng(5)
    for _ in range(100):
        mask = rng.random(rng.integers(1, 24, 2)) < rng.random()
        np.testing.assert_array_equal(fill_contours(trace_contours(mask), mask.shape), mask)


def test_each_component_is_one_contour_with_its_holes():
    mask = np.zeros((12, 12), bool)
    mask[1:8, 1:8], mask[3:5, 3:5], mask[10, 10] = True, False, True
    contours = trace_contours(mask)
    assert len(contours) == 2
    assert sorted(len(points) for points in contours)[0] == 4
    assert not any((points[0] == points[-1]).all() for points in contours)
