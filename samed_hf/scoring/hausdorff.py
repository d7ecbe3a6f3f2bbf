"""HD95 with the values of medpy to the last bit, many times faster on large volumes.

medpy runs a distance transform over every voxel, although only surface voxels count. Here k-d trees over the two
surfaces give the distances up to rounding. Only the two distances at the percentile's rank affect the result and must
be exact: for the voxels at that rank, all equally near voxels of the other surface are compared. If the last bit
depends on which of them is chosen, or if surfaces fill their box so that trees are slower, medpy computes the value.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from medpy.metric import binary
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

__all__ = ["class_boxes", "hd95", "mask_surface", "smallest_box", "step_lengths"]

_PERCENTILE = 95
_SPARSE = 4  # voxels of the box per surface voxel from which on trees are faster than a distance transform
_TIES = (8, 64)  # nearest voxels that are compared, and how many if all of those are equally near
_SLACK = 1e-11  # of the extent of the box; distances of trees and transforms differ by about 1e-16 of it


def smallest_box(*arrays: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around the nonzero voxels of all arrays; an empty box if there are none."""
    axes = range(arrays[0].ndim)
    box: tuple[slice, ...] = ()
    for axis in axes:
        others = tuple(other for other in axes if other != axis)
        # Crop along the finished axes first, so that later ones have fewer voxels.
        occupied = np.flatnonzero(reduce(np.logical_or, (array[box].any(axis=others) for array in arrays)))
        box += (slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0),)
    return box


def class_boxes(prediction: np.ndarray, label: np.ndarray, count: int) -> list[tuple[slice, ...]]:
    """Return the smallest box around each of the classes 1 … count in both integer label maps; empty if absent."""
    outer = smallest_box(prediction, label)
    pairs = zip(*(find_objects(array[outer], count) for array in (prediction, label)), strict=True)
    boxes = [(slice(0, 0),) * label.ndim] * count
    for index, pair in enumerate(pairs):
        if present := [box for box in pair if box is not None]:  # relative to the outer box
            boxes[index] = tuple(
                slice(around.start + min(side.start for side in sides), around.start + max(side.stop for side in sides))
                for around, *sides in zip(outer, *present, strict=True)
            )
    return boxes


def hd95(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """Return the value of `medpy.metric.binary.hd95` for two boolean masks, each with at least one voxel set.

    Voxels beyond the array's border count as background: masks may be cropped to the smallest box around both.
    `spacing` is in mm along each array axis; `None` measures in voxels. The 8 organs of a 120×512×512 case, each
    cropped to its box, take 0.3 s instead of 8 s with medpy, and 1 s instead of 63 s with 200 islands each (one core).
    """
    scale = np.ones(prediction.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    surfaces = mask_surface(prediction), mask_surface(label)
    # np.argwhere gives the same, six times slower.
    voxels = [np.stack(np.unravel_index(np.flatnonzero(surface), surface.shape), axis=-1) for surface in surfaces]
    is_sparse = prediction.size > _SPARSE * sum(map(len, voxels))
    if is_sparse and (value := _percentile_by_trees(surfaces, voxels, scale)) is not None:
        return value
    return float(binary.hd95(prediction, label, voxelspacing=spacing))


def mask_surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a boolean mask with a face towards the background or the array's border."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        here, there = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] &= there[:-1]
        here[:-1] &= there[1:]
        here[[0, -1]] = False
    return mask ^ inside


def step_lengths(steps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the length in mm of steps in voxels `(..., ndim)`, rounded as in scipy's transform: axis after axis."""
    return np.sqrt(reduce(np.add, np.moveaxis(np.square(steps * scale), -1, 0)))


def _percentile_by_trees(
    surfaces: Sequence[np.ndarray], voxels: Sequence[np.ndarray], scale: np.ndarray
) -> float | None:
    """Return the percentile, or `None` if its last bit depends on which of several equally near voxels is chosen."""
    slack = _SLACK * float(np.dot(surfaces[0].shape, scale))
    # These settings were the fastest for building and querying.
    trees = [KDTree(sites * scale, leafsize=32, compact_nodes=False, balanced_tree=False) for sites in voxels]
    searches = []
    for own, other in ((0, 1), (1, 0)):
        queries = voxels[own][~surfaces[other][tuple(voxels[own].T)]]
        searches.append((trees[other], voxels[other], queries, trees[other].query(queries * scale)[0]))
    shared = np.zeros(sum(map(len, voxels)) - sum(len(queries) for _, _, queries, _ in searches))
    lowest, highest = _at_rank(np.concatenate([shared, *(distances for *_, distances in searches)]))
    low, high = [shared], [shared]
    for tree, sites, queries, distances in searches:
        lower, upper = distances.copy(), distances.copy()
        ranked = np.flatnonzero((distances > lowest - 2 * slack) & (distances < highest + 2 * slack))
        lower[ranked], upper[ranked] = _bounds(tree, sites, queries[ranked], scale, slack)
        low.append(lower)
        high.append(upper)
    lower, upper = np.concatenate(low), np.concatenate(high)
    if _at_rank(lower) != _at_rank(upper):
        return None
    return float(np.percentile(lower, _PERCENTILE))


def _at_rank(distances: np.ndarray) -> tuple[float, float]:
    """Return the two distances that the percentile is interpolated from."""
    lowest, highest = (np.percentile(distances, _PERCENTILE, method=method) for method in ("lower", "higher"))
    return float(lowest), float(highest)


def _bounds(
    tree: KDTree, sites: np.ndarray, queries: np.ndarray, scale: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest distance that medpy may compute for each query, both `(queries,)`."""
    lower, upper = np.full(len(queries), -np.inf), np.full(len(queries), np.inf)
    todo = np.arange(len(queries))
    for count in _TIES:
        if not len(todo):
            break
        # If there are fewer sites, the rest of the row has an infinite distance and the index len(sites).
        distances, nearest = tree.query(queries[todo] * scale, k=count)
        tied = distances <= distances[:, :1] + slack
        steps = sites[np.minimum(nearest, len(sites) - 1)] - queries[todo, None]
        lengths = step_lengths(steps, scale)
        known = ~tied[:, -1]
        lower[todo[known]] = np.where(tied, lengths, np.inf).min(axis=1)[known]
        upper[todo[known]] = np.where(tied, lengths, -np.inf).max(axis=1)[known]
        todo = todo[~known]
    return lower, upper
