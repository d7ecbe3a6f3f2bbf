import numpy as np
import pytest
import torch
from medpy.metric import binary

from samed_hf.scoring import surfaces as module
from samed_hf.scoring.surfaces import surface_dice, surface_distances

from .test_hausdorff import SPACINGS, random_mask


@pytest.fixture(params=["trees", "transform"])
def way(request, monkeypatch):
    """Distances by one way and by the other, whatever the masks are."""
    monkeypatch.setattr(module, "_SPARSE", {"trees": 0, "transform": np.inf}[request.param])


def pairs(ndim, count=60):
    rng = np.random.default_rng(ndim)
    for number in range(count):
        shape = tuple(rng.integers(1, [0, 40, 16][ndim - 1], ndim))
        spacing = SPACINGS[number % len(SPACINGS)]
        yield *(random_mask(rng, shape) for _ in range(2)), spacing and spacing[-ndim:]


@pytest.mark.parametrize("ndim", [2, 3])
def test_hd_and_assd_are_medpys(way, ndim):
    compared = 0
    for prediction, label, spacing in pairs(ndim):
        if prediction.any() and label.any():
            compared += 1
            distances = surface_distances(prediction, label, spacing)
            assert distances.hd == pytest.approx(binary.hd(prediction, label, voxelspacing=spacing), abs=1e-9)
            assert distances.assd == pytest.approx(binary.assd(prediction, label, voxelspacing=spacing), abs=1e-9)
    assert compared > 25


def test_distances_by_hand():
    label, prediction = np.zeros((2, 1, 9), bool)
    label[0, 2] = prediction[0, 5] = prediction[0, 6] = True
    distances = surface_distances(prediction, label, (1.0, 0.5))
    assert distances.hd == 2.0
    assert distances.assd == pytest.approx((1.5 + 2.0 + 1.5) / 3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_surface_dice_is_monais(way, ndim):
    metrics = pytest.importorskip("monai.metrics", reason="the areas of surface elements are MONAI's")
    for prediction, label, spacing in pairs(ndim, 30):
        if not (prediction.any() and label.any()) or min(label.shape) < 2:
            continue
        spacing = spacing or (1.0,) * ndim
        # Padded, as MONAI leaves the array's border out.
        maps = [torch.from_numpy(np.pad(mask, 2))[None, None].float() for mask in (prediction, label)]
        expected = metrics.compute_surface_dice(
            *(torch.cat([1 - one, one], dim=1) for one in maps), [1.2], spacing=spacing, use_subvoxels=True
        )
        assert surface_dice(prediction, label, 1.2, spacing) == pytest.approx(float(expected), abs=1e-6)


def test_surface_dice_by_hand():
    """Two squares of 2×2 voxels, one shifted by a voxel: 8 corners of a contour each, within 1 voxel of the other."""
    pytest.importorskip("monai.metrics", reason="the areas of surface elements are MONAI's")
    label, prediction = np.zeros((2, 8, 8), bool)
    label[2:4, 2:4] = prediction[2:4, 3:5] = True
    assert surface_dice(prediction, label, 1.0, (1.0, 1.0)) == 1.0
    assert 0 < surface_dice(prediction, label, 0.5, (1.0, 1.0)) < 1.0
    assert surface_dice(prediction, label, 0.5, (0.4, 0.4)) == 1.0
    assert surface_dice(label, label, 0.0, (1.0, 1.0)) == 1.0
    far = np.roll(label, 4, axis=0)
    assert surface_dice(far, label, 1.0, (1.0, 1.0)) == 0.0


def test_surface_dice_of_an_empty_mask_is_0():
    pytest.importorskip("monai.metrics", reason="the areas of surface elements are MONAI's")
    label = np.zeros((5, 5, 5), bool)
    label[2, 2, 2] = True
    assert surface_dice(np.zeros_like(label), label, 9.0, (1.0, 1.0, 1.0)) == 0.0
    assert surface_dice(label, np.zeros_like(label), 9.0, (1.0, 1.0, 1.0)) == 0.0
