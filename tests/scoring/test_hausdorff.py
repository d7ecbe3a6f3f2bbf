import numpy as np
import pytest
from medpy.metric import binary
from scipy.ndimage import binary_erosion, gaussian_filter

from samed_hf.scoring import hausdorff as module
from samed_hf.scoring.hausdorff import class_boxes, hd95, mask_surface, smallest_box

SPACINGS = [None, (0.7, 0.7, 0.7), (3.0, 0.7421875, 0.7421875), (1.1, 0.3, 2.7)]


@pytest.fixture(params=["trees", "transform"])
def way(request, monkeypatch):
    """Distances by one way and by the other, whatever the masks are."""
    monkeypatch.setattr(module, "_SPARSE", {"trees": 0, "transform": np.inf}[request.param])
    return request.param


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A block of random density, many a one at the array's border, full, or of one voxel; or blobs."""
    mask = np.zeros(shape, bool)
    kind = rng.integers(4)
    if kind == 0:
        mask[tuple(rng.integers(shape))] = True
    elif kind == 1:
        mask = gaussian_filter(rng.normal(size=shape), 2) > 0.05
    else:
        block = tuple(slice(*sorted(rng.integers(0, length + 1, 2))) for length in shape)
        mask[block] = rng.random(mask[block].shape) < rng.choice([0.02, 0.5, 1.0])
    return mask


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_hd95_is_medpys_to_the_last_bit(way, ndim, spacing):
    rng = np.random.default_rng(ndim)
    spacing = spacing and spacing[-ndim:]
    pairs = 0
    for _ in range(120):
        shape = tuple(rng.integers(1, [200, 40, 16][ndim - 1], ndim))
        masks = [random_mask(rng, shape) for _ in range(2)]
        if all(mask.any() for mask in masks):
            pairs += 1
            box = smallest_box(*masks)
            assert hd95(*(mask[box] for mask in masks), spacing) == binary.hd95(*masks, voxelspacing=spacing)
    assert pairs > 40


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hd95_of_a_deformed_organ_is_medpys(way, spacing):
    rng = np.random.default_rng(5)
    z, y, x = np.ogrid[-1:1:30j, -1:1:50j, -1:1:40j]
    radius = np.sqrt(z**2 + (1.2 * y) ** 2 + x**2)
    label = radius < 0.7
    prediction = np.roll(radius + 0.4 * gaussian_filter(rng.normal(size=label.shape), 3), (1, 2, 0), (0, 1, 2)) < 0.7
    prediction[0, :2, -3:] = True
    assert hd95(prediction, label, spacing) == binary.hd95(prediction, label, voxelspacing=spacing)


def test_equal_masks_are_at_no_distance(way):
    mask = random_mask(np.random.default_rng(0), (9, 30, 30)) | (np.arange(30) == 4)
    assert hd95(mask, mask) == 0.0


def test_scipys_transform_decides_where_the_last_bit_hangs_on_the_nearest_voxel():
    """Two voxels equally near, whose distances are rounded differently; the percentile lies at the doubtful one."""
    scale = np.full(3, 0.7)
    steps = np.array([(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1), (1, 3, 2), (3, 1, 2)])
    lengths = module.step_lengths(steps, scale)
    nearer, farther = steps[lengths.argmin()], steps[lengths.argmax()]
    assert 0 < lengths.max() - lengths.min() < 1e-15
    prediction, label = np.zeros((7, 7, 7), bool), np.zeros((7, 7, 7), bool)
    prediction[3, 3, 3] = True
    label[tuple(3 + nearer)] = label[tuple(3 - farther)] = True
    surfaces, voxels = (prediction, label), (np.argwhere(prediction), np.argwhere(label))
    assert module._percentile_by_trees(surfaces, voxels, scale) is None
    assert hd95(prediction, label, scale) == binary.hd95(prediction, label, voxelspacing=scale)
    # In voxels both distances are the same number, and nothing is in doubt.
    assert module._percentile_by_trees(surfaces, voxels, np.ones(3)) == 14**0.5


def test_more_equally_near_voxels_than_are_looked_up():
    z, y, x = np.ogrid[-14:15, -14:15, -14:15]
    label = z**2 + y**2 + x**2 == 194
    prediction = np.zeros_like(label)
    prediction[14, 14, 14] = True
    assert label.sum() > max(module._TIES)
    sites, center = np.argwhere(label), np.argwhere(prediction)
    lower, upper = module._bounds(module.KDTree(sites), sites, center, np.ones(3), 1e-9)
    assert (lower, upper) == (-np.inf, np.inf)
    lower, upper = module._bounds(module.KDTree(sites[:20]), sites[:20], center, np.ones(3), 1e-9)
    assert lower == upper == 194**0.5
    assert hd95(prediction, label) == binary.hd95(prediction, label) == 194**0.5


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_surface_is_what_erosion_takes_away(ndim):
    rng = np.random.default_rng(ndim)
    for _ in range(50):
        mask = random_mask(rng, tuple(rng.integers(1, 12, ndim)))
        assert (mask_surface(mask) == mask & ~binary_erosion(mask)).all()


def test_boxes_hold_every_voxel_and_no_empty_edge():
    rng = np.random.default_rng(0)
    for ndim in (2, 3) * 40:
        maps = [
            random_mask(rng, shape) * rng.integers(0, 5, shape, np.uint8)
            for shape in [tuple(rng.integers(1, 9, ndim))] * 2
        ]
        for index, box in enumerate(class_boxes(*maps, 6), start=1):
            masks = [array == index for array in maps]
            voxels = np.argwhere(masks[0] | masks[1])
            if len(voxels):
                low, high = voxels.min(axis=0), voxels.max(axis=0)
                assert box == tuple(slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
            else:
                assert box == (slice(0, 0),) * ndim
            assert box == smallest_box(*masks)
