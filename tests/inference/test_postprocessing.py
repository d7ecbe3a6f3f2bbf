import numpy as np
import pytest
from scipy import ndimage

from samed_hf.inference.postprocessing import keep_labels, keep_largest, remove_islands


@pytest.fixture
def labels():
    """Label 1 has components of 8, 4 and 1 voxels, label 2 one of 6, label 5 one of 2 voxels that touch at a corner."""
    array = np.zeros((10, 8, 6), dtype=np.uint8)
    array[0:2, 0:2, 0:2] = 1
    array[5:7, 0:2, 0] = 1
    array[9, 7, 5] = 1
    array[4:7, 4:6, 3] = 2
    array[0, 6, 4] = array[1, 7, 5] = 5
    return array


def sizes(array, index):
    components, count = ndimage.label(array == index, np.ones((3, 3, 3)))
    return sorted(np.bincount(components.ravel())[1:].tolist()) if count else []


def test_the_largest_component_stays(labels):
    before = labels.copy()
    cleaned, removed = keep_largest(labels, [1, 2])
    assert sizes(cleaned, 1) == [8]
    assert removed == {1: 5}
    assert (cleaned[0:2, 0:2, 0:2] == 1).all()
    np.testing.assert_array_equal(cleaned == 2, before == 2)
    np.testing.assert_array_equal(labels, before)
    assert cleaned.dtype == np.uint8


def test_voxels_that_touch_at_a_corner_are_connected(labels):
    assert keep_largest(labels, [5])[1] == {}
    assert remove_islands(labels, {5: 2})[1] == {}
    assert remove_islands(labels, {5: 3})[1] == {5: 2}


def test_the_first_of_equal_components_stays():
    labels = np.zeros((9, 3, 3), dtype=np.uint16)
    labels[[1, 4, 7]] = 300
    cleaned, removed = keep_largest(labels, [300])
    assert removed == {300: 18}
    assert np.flatnonzero((cleaned == 300).any(axis=(1, 2))).tolist() == [1]
    assert cleaned.dtype == np.uint16


@pytest.mark.parametrize(
    ("limit", "left"), [(0, [1, 4, 8]), (1, [1, 4, 8]), (1.5, [4, 8]), (4, [4, 8]), (4.001, [8]), (9, [])]
)
def test_islands_below_the_limit_are_removed(labels, limit, left):
    cleaned, removed = remove_islands(labels, {1: limit})
    assert sizes(cleaned, 1) == left
    assert removed.get(1, 0) == 13 - sum(left)
    assert sizes(cleaned, 2) == [6]


def test_a_component_of_exactly_the_limit_stays():
    # Five voxels of 0.0003 ml are 0.0015 ml, but not in floating point.
    assert 0.0015 / 0.0003 > 5
    component = np.zeros((5, 1, 1), dtype=np.uint8)
    component[:] = 1
    assert remove_islands(component, {1: 0.0015 / 0.0003})[1] == {}


def test_absent_labels_change_nothing(labels):
    for cleaned, removed in (keep_largest(labels, [3, 4, 77]), remove_islands(labels, {3: 5, 200: 1e9})):
        np.testing.assert_array_equal(cleaned, labels)
        assert removed == {}
    nothing = np.zeros((3, 3, 3), dtype=np.uint8)
    assert keep_largest(nothing, [1])[1] == {}
    np.testing.assert_array_equal(keep_labels(nothing, []), nothing)


def test_keep_labels(labels):
    cleaned = keep_labels(labels, [2])
    assert cleaned.dtype == np.uint8
    assert np.unique(cleaned).tolist() == [0, 2]
    np.testing.assert_array_equal(cleaned == 2, labels == 2)
    np.testing.assert_array_equal(keep_labels(labels, [1, 2, 5, 77]), labels)
    assert keep_labels(labels, []).max() == 0
    assert labels.max() == 5


def test_any_memory_order(labels):
    permuted = np.transpose(labels, (2, 0, 1))[::-1]
    assert not permuted.flags.c_contiguous
    expected = np.transpose(keep_largest(labels, [1])[0], (2, 0, 1))[::-1]
    np.testing.assert_array_equal(keep_largest(permuted, [1])[0], expected)


def test_random_maps_against_counted_components():
    generator = np.random.default_rng(0)
    labels = (generator.random((14, 12, 10)) < 0.12).astype(np.uint8) * generator.integers(1, 3, (14, 12, 10), np.uint8)
    for index in (1, 2):
        found = sizes(labels, index)
        assert len(found) > 5
        assert sizes(keep_largest(labels, [index])[0], index) == found[-1:]
        assert sizes(remove_islands(labels, {index: 3})[0], index) == [size for size in found if size >= 3]
