import itertools

import numpy as np
import pytest

from samed_hf.volumes import Volume, reorient, restore_orientation, same_grid
from samed_hf.volumes.geometry import check_orientation

from .test_nifti import oblique_affine

SHAPE = (4, 5, 3)
# All 48 ways for three axes to run.
ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]
COLUMNS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def affine_of(orientation, spacing=(0.5, 0.75, 3.0), origin=(10.0, -20.0, 30.0)):
    """The axes run along those of the scanner; binary fractions keep the arithmetic exact."""
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([COLUMNS[letter] for letter in orientation]) * spacing
    affine[:3, 3] = origin
    return affine


def counted(shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape)


def by_place(volume):
    """Each voxel's value, by where it lies in mm."""
    indices = np.indices(volume.grid).reshape(3, -1)
    places = volume.affine[:3, :3] @ indices + volume.affine[:3, 3:]
    values = volume.array.reshape(*volume.grid, -1)[tuple(indices)]
    return {tuple(place.round(6)): value.tolist() for place, value in zip(places.T, values, strict=True)}


def test_spacing_is_the_length_of_the_columns():
    volume = Volume(np.zeros(SHAPE), oblique_affine((0.8, 0.7, 3.0)))
    assert volume.spacing == pytest.approx((0.8, 0.7, 3.0), abs=1e-12)
    assert volume.affine.dtype == np.float64


def test_a_sheared_voxel_holds_no_more():
    affine = np.diag([0.5, 0.5, 4.0, 1.0])
    affine[1, 2] = 2.0  # a gantry's tilt
    volume = Volume(np.zeros(SHAPE), affine)
    assert volume.voxel_ml == pytest.approx(0.001)
    assert volume.spacing == pytest.approx((0.5, 0.5, 20**0.5))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_says_where_the_axes_run_to(orientation):
    assert Volume(np.zeros(SHAPE), affine_of(orientation)).orientation == orientation


def test_grid_and_channels():
    assert (Volume(np.zeros(SHAPE), np.eye(4)).grid, Volume(np.zeros(SHAPE), np.eye(4)).num_channels) == (SHAPE, 1)
    volume = Volume(np.zeros((*SHAPE, 2)), np.eye(4))
    assert (volume.grid, volume.num_channels) == (SHAPE, 2)


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.zeros((4, 5)), np.eye(4), r"expected \(x, y, z\)"),
        (np.zeros((4, 5, 1, 1, 2)), np.eye(4), r"expected \(x, y, z\)"),
        (np.zeros(SHAPE), np.eye(3), "expected an invertible"),
        (np.zeros(SHAPE), np.diag([1, 1, 0, 1]), "expected an invertible"),
        (np.zeros(SHAPE), np.diag([1, 1, np.nan, 1]), "expected an invertible"),
    ],
)
def test_volume_refuses_a_broken_geometry(array, affine, words):
    with pytest.raises(ValueError, match=words):
        Volume(array, affine)


def test_reorient_by_hand():
    """A row of three voxels that runs to the right, its first at x = 10 mm, seen from the other side."""
    volume = Volume(np.array([1, 2, 3]).reshape(3, 1, 1), affine_of("RAS", (2.0, 1.0, 1.0), (10.0, 0.0, 0.0)))
    turned = reorient(volume, "LAS")
    assert turned.array.ravel().tolist() == [3, 2, 1]
    np.testing.assert_array_equal(turned.affine, affine_of("LAS", (2.0, 1.0, 1.0), (14.0, 0.0, 0.0)))
    upright = reorient(volume, "SAR")
    assert upright.array.shape == (1, 1, 3)
    assert upright.array.ravel().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(upright.affine, affine_of("SAR", (1.0, 1.0, 2.0), (10.0, 0.0, 0.0)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("wanted", ["LPS", "RAS", "PIR"])
def test_reorient_moves_no_voxel(orientation, wanted):
    volume = Volume(counted(), affine_of(orientation))
    turned = reorient(volume, wanted)
    assert turned.orientation == wanted
    assert by_place(turned) == by_place(volume)
    assert turned.header is None
    assert np.shares_memory(turned.array, volume.array)
    back = restore_orientation(turned.array, volume, wanted)
    np.testing.assert_array_equal(back, volume.array)


@pytest.mark.parametrize("degrees", [0, 10, 30, 44, 46, 80, 91, 135, 170, 200, 300])
def test_reorient_moves_no_voxel_of_an_oblique_scan(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume = Volume(counted((*SHAPE, 2)), turn @ oblique_affine())
    turned = reorient(volume, "LPS")
    assert turned.orientation == "LPS"
    assert by_place(turned) == by_place(volume)
    np.testing.assert_array_equal(restore_orientation(turned.array, volume, "LPS"), volume.array)
    assert (np.diag(turned.affine)[:3] * [-1, -1, 1] > 0).all()


def test_reorient_a_sheared_scan():
    affine = affine_of("LPS", (0.5, 0.5, 4.0))
    affine[1, 2] = 2.0
    volume = Volume(counted(), affine)
    assert by_place(reorient(volume, "RAS")) == by_place(volume)


def test_none_leaves_the_axes():
    volume = Volume(counted(), affine_of("PIR"))
    assert reorient(volume, None) is volume
    np.testing.assert_array_equal(restore_orientation(volume.array, volume, None), volume.array)


def test_scans_in_all_orientations_become_one():
    first = Volume(counted(), affine_of("LPS"))
    for orientation in ORIENTATIONS:
        other = reorient(first, orientation)
        again = reorient(other, "lps")
        np.testing.assert_array_equal(again.array, first.array)
        np.testing.assert_array_equal(again.affine, first.affine)


@pytest.mark.parametrize("orientation", ["", "LP", "LPX", "LRS", "LPSS", "LLL", "axial", 3])
def test_orientation_is_one_letter_of_each_pair(orientation):
    with pytest.raises(ValueError, match="expected three letters"):
        check_orientation(orientation)


def test_same_grid_says_what_differs():
    volume = Volume(counted(), affine_of("LPS", (1.0, 1.0, 2.0)))
    assert same_grid(volume, volume) is None
    assert same_grid(volume, Volume(np.zeros((*SHAPE, 3)), volume.affine)) is None
    assert same_grid(volume, Volume(counted((4, 5, 2)), volume.affine)) == "shape 4×5×3 against 4×5×2"
    moved = volume.affine.copy()
    moved[2, 3] += 0.09
    assert same_grid(volume, Volume(counted(), moved)) is None
    moved[2, 3] += 0.02
    assert "0.11 mm apart (voxels of 1×1×2 mm)" in same_grid(volume, Volume(counted(), moved))
    assert same_grid(volume, Volume(counted(), moved), tolerance=0.2) is None


def test_same_grid_looks_at_the_far_corner():
    volume = Volume(np.zeros((101, 5, 3)), np.diag([1.0, 1.0, 1.0, 1.0]))
    stretched = Volume(volume.array, np.diag([1.01, 1.0, 1.0, 1.0]))
    assert "is 1 mm apart" in same_grid(volume, stretched)
