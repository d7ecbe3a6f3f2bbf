"""HD95 with the values of medpy to the last bit, many times faster on large volumes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from medpy.metric import binary
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree

__all__ = ["class_boxes", "hd95"]

_PERCENTILE = 95
_SPARSE = 4  # voxels of the box per surface voxel from which on trees are faster than a distance transform
_SLACK = 1e-11  # of the extent of the box; distances of trees and transforms differ by about 1e-16 of it


def class_boxes(prediction: np.ndarray, label: np.ndarray, count: int) -> list[tuple[slice, ...]]:
    """Return the smallest box around each of the classes 1 … count in both integer label maps; empty if absent."""
    boxes = []
    for pair in zip(find_objects(prediction, count), find_objects(label, count), strict=True):
        present = [box for box in pair if box is not None] or [(slice(0, 0),) * label.ndim]
        axes = zip(*present, strict=True)
        boxes.append(tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes))
    return boxes


def hd95(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """95th percentile of the symmetric distance between the surfaces of two masks.

    `medpy.metric.binary.hd95` runs a distance transform over every voxel. Here k-d trees compare the surface voxels
    alone: 8 organs of a 120×512×512 case, each cropped to its box, take 0.6 s instead of 8 s, and 2.3 s instead of 63 s
    with 200 islands of each organ spread over the volume (one core). medpy computes the distance if the surfaces fill
    the box, where trees are slower, and if the last bit depends on which of several equally near voxels it chooses.

    Args:
        prediction: Boolean mask with one to three axes and at least one voxel set. Voxels beyond its border count as
            background: masks may be cropped to the smallest box around both.
        label: Boolean mask of the same shape, with at least one voxel set.
        spacing: Size of a voxel in mm along each array axis; `None` measures in voxels.

    Returns:
        The value of `medpy.metric.binary.hd95` for the same masks, cropped or not, in mm or in voxels; at least 0.
    """
    scale = np.ones(prediction.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    surfaces = [_surface_voxels(mask) for mask in (prediction, label)]
    if prediction.size > _SPARSE * sum(map(len, surfaces)):
        value = _percentile_by_trees(surfaces, scale, _SLACK * float(np.dot(prediction.shape, scale)))
        if value is not None:
            return value
    return float(binary.hd95(prediction, label, voxelspacing=spacing))


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Return the indexes `(voxels, ndim)` of the voxels with a face towards the background or the array's border."""
    flat = np.flatnonzero(mask ^ binary_erosion(mask))
    return np.stack(np.unravel_index(flat, mask.shape), axis=-1)  # six times faster than np.argwhere


def _percentile_by_trees(surfaces: Sequence[np.ndarray], scale: np.ndarray, slack: float) -> float | None:
    """Return the percentile, or `None` if its last bit depends on the choice among equally near voxels.

    Two distances determine the percentile, those at its rank. Only distances within `slack` mm of them must be exact.
    """
    trees = [KDTree(sites * scale, balanced_tree=False) for sites in surfaces]
    distances = [trees[1 - own].query(surfaces[own] * scale)[0] for own in (0, 1)]
    lowest, highest = _at_rank(np.concatenate(distances))
    if highest == 0:
        return 0.0
    lower, upper = [found.copy() for found in distances], [found.copy() for found in distances]
    for own, found in enumerate(distances):
        ranked = np.flatnonzero((found > lowest - 2 * slack) & (found < highest + 2 * slack))
        queries, sites = surfaces[own][ranked], surfaces[1 - own]
        ties = trees[1 - own].query_ball_point(queries * scale, found[ranked] + slack)
        lower[own][ranked], upper[own][ranked] = _bounds(queries, sites, ties, scale)
    values = np.concatenate(lower)
    return float(np.percentile(values, _PERCENTILE)) if _at_rank(values) == _at_rank(np.concatenate(upper)) else None


def _at_rank(distances: np.ndarray) -> tuple[float, float]:
    """Return the two distances between which the percentile lies."""
    lowest, highest = (np.percentile(distances, _PERCENTILE, method=method) for method in ("lower", "higher"))
    return float(lowest), float(highest)


def _bounds(
    queries: np.ndarray, sites: np.ndarray, ties: Sequence[list[int]], scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest rounded distance of each query to its equally near sites.

    Args:
        queries: voxels of shape `(queries, ndim)`.
        sites: voxels of the other surface, of shape `(sites, ndim)`.
        ties: indexes of the equally near sites of each query, at least one.
        scale: size of a voxel in mm along each axis.
    """
    counts = np.fromiter(map(len, ties), np.intp)
    steps = sites[np.fromiter(chain.from_iterable(ties), np.intp)] - np.repeat(queries, counts, axis=0)
    lengths = np.linalg.norm(steps * scale, axis=-1)  # rounded as in scipy's distance transform
    starts = np.cumsum(counts) - counts
    return np.minimum.reduceat(lengths, starts), np.maximum.reduceat(lengths, starts)
