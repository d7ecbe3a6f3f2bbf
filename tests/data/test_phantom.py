"""The synthetic patients: reproducible, labelled, and with every organ where a radiologist looks for it."""

import numpy as np
import pytest
from scipy import ndimage

from samed_hf.data.layouts.synapse import SYNAPSE_LABELS
from samed_hf.data.phantom import phantom_affine, phantom_patient

CODES = {name: code for code, name in SYNAPSE_LABELS.items()}
ALWAYS = {"spleen", "liver", "stomach", "aorta", "pancreas"}


@pytest.fixture(scope="module")
def patients():
    return [phantom_patient(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def small_labels():
    return [phantom_patient((7, seed), shape=(8, 48, 48))[1] for seed in range(30)]


def centre(label: np.ndarray, name: str) -> np.ndarray:
    """Mean position `(slice, x, y)` of an organ, in voxels."""
    return np.argwhere(label == CODES[name]).mean(axis=0)


def test_same_seed_gives_same_patient():
    first, again, other = (phantom_patient(seed, shape=(12, 64, 64)) for seed in ((3, 1), (3, 1), (3, 2)))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_other_resolution_is_the_same_patient(patients):
    _, label, spacing = phantom_patient(0, shape=(12, 80, 80))
    _, fine_label, fine_spacing = patients[0]
    for code in (CODES["liver"], CODES["spleen"], CODES["stomach"]):
        coarse_ml = (label == code).sum() * np.prod(spacing)
        assert coarse_ml == pytest.approx((fine_label == code).sum() * np.prod(fine_spacing), rel=0.15)


def test_types_shapes_and_ranges(patients):
    for image, label, spacing in patients:
        assert image.shape == label.shape == (24, 160, 160)
        assert image.dtype == np.int16
        assert label.dtype == np.uint8
        assert spacing == (8.0, 2.25, 2.25)
        assert -1024 <= image.min() < -950
        assert 250 < image.max() <= 1500
        assert label.max() == 8
        assert abs(np.median(image[:, 0, :]) + 1000) < 10  # air beside the patient


def test_rectangular_shape_keeps_the_field_of_view():
    image, _, spacing = phantom_patient(1, shape=(16, 60, 72))
    assert image.shape == (16, 60, 72)
    assert spacing == (12.0, 6.0, 5.0)


def test_presence_of_organs(small_labels):
    present = [{SYNAPSE_LABELS[code] for code in np.unique(label)} for label in small_labels]
    assert all(names >= ALWAYS for names in present)
    assert 1 <= sum("gallbladder" not in names for names in present) <= 10
    assert sum(len(names) == len(SYNAPSE_LABELS) for names in present) > len(present) / 2


def test_organs_lie_where_they_belong(patients):
    for _, label, _ in patients:
        middle = centre(label, "aorta")
        assert centre(label, "liver")[1] < middle[1] - 15  # the patient's right is small x
        assert centre(label, "spleen")[1] > middle[1] + 25
        assert centre(label, "stomach")[1] > middle[1]
        assert centre(label, "pancreas")[2] > middle[2]  # anterior is large y
        assert centre(label, "stomach")[0] > centre(label, "pancreas")[0]  # the head is at large slices
        for name, side in (("right kidney", -1), ("left kidney", 1)):
            if (label == CODES[name]).any():
                assert side * (centre(label, name)[1] - middle[1]) > 10


def test_aorta_runs_before_the_spine(patients):
    for image, label, _ in patients:
        for k in (2, 12, 22):
            x, y = np.argwhere(label[k] == CODES["aorta"]).mean(axis=0).round().astype(int)
            assert np.median(image[k, x - 7 : x - 1, y - 14 : y - 8]) > 150  # bone behind, a little to the right
            assert image[k, x - 7 : x + 7, y + 9 : y + 20].mean() < 150


def test_liver_is_the_largest_organ_and_volumes_are_human(patients):
    limits = {
        "spleen": (40, 450),
        "liver": (600, 2300),
        "stomach": (100, 700),
        "aorta": (30, 130),
        "pancreas": (20, 130),
    }
    for _, label, spacing in patients:
        millilitres = np.bincount(label.ravel(), minlength=9) * np.prod(spacing) / 1000
        assert millilitres[1:].argmax() + 1 == CODES["liver"]
        for name, (least, most) in limits.items():
            assert least < millilitres[CODES[name]] < most, name


def test_intensities_are_portal_venous(patients):
    # Medians of the organs' cores; the stomach's fluid only, as gas is part of its label.
    expected = {"spleen": 120, "right kidney": 165, "left kidney": 165, "gallbladder": 12, "liver": 105, "stomach": 40}
    expected |= {"aorta": 180, "pancreas": 85}
    for name, hu in expected.items():
        medians = []
        for image, label, _ in patients:
            core = ndimage.binary_erosion(label == CODES[name], np.ones((1, 3, 3)))
            values = image[core & (image > -200)]
            if values.size:
                medians.append(np.median(values))
        assert np.mean(medians) == pytest.approx(hu, abs=18), name


def test_noise_is_that_of_a_clinical_scan(patients):
    for image, label, _ in patients:
        core = ndimage.binary_erosion(label == CODES["spleen"], np.ones((1, 5, 5)))
        assert 9 < image[core].std() < 22


def test_each_organ_is_in_one_piece(patients):
    for _, label, _ in patients:
        for code in range(1, 9):
            parts, count = ndimage.label(label == code)
            if count:
                sizes = np.bincount(parts.ravel())[1:]
                assert sizes.max() >= 0.9 * sizes.sum(), SYNAPSE_LABELS[code]


def test_affine_is_ras_with_x_toward_the_left():
    affine = phantom_affine((8.0, 2.25, 2.5))
    np.testing.assert_array_equal(affine, np.diag([-2.25, 2.5, 8.0, 1.0]))


@pytest.mark.parametrize("spacing", [(8.0, 2.25), (8.0, 0.0, 2.25), (8.0, np.nan, 2.25)])
def test_bad_spacing_is_named(spacing):
    with pytest.raises(ValueError, match="spacing must be"):
        phantom_affine(spacing)


@pytest.mark.parametrize("shape", [(24, 160), (4, 160, 160), (24, 160, 16), (24.5, 160, 160), (24, 160, 160, 1)])
def test_bad_shape_is_named(shape):
    with pytest.raises(ValueError, match="shape must be"):
        phantom_patient(0, shape=shape)


@pytest.mark.parametrize("seed", [-1, (2, -3)])
def test_bad_seed_is_named(seed):
    with pytest.raises(ValueError, match="seed must be"):
        phantom_patient(seed)
