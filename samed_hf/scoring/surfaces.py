"""Scores of the surfaces of one mask pair: HD, ASSD and surface Dice (NSD)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate, distance_transform_edt
from scipy.spatial import KDTree

from .hausdorff import mask_surface, step_lengths

__all__ = ["SurfaceDistances", "require_areas", "surface_dice", "surface_distances"]

_SPARSE = 4  # voxels of the box per surface voxel from which on trees are faster than a distance transform


class SurfaceDistances(NamedTuple):
    """Distances of each surface voxel of one mask to the surface of the other, in mm, or in voxels without spacing."""

    from_prediction: np.ndarray
    from_label: np.ndarray

    @property
    def hd(self) -> float:
        """The largest distance of both directions: the Hausdorff distance."""
        return float(max(self.from_prediction.max(), self.from_label.max()))

    @property
    def assd(self) -> float:
        """The mean over the voxels of both surfaces: the average symmetric surface distance."""
        return float(np.concatenate(self).mean())


def surface_distances(
    prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two boolean masks, each with at least one voxel set.

    The surface of a mask are its voxels with a face towards the background or the array's border, as in medpy.
    `spacing` is in mm along each array axis.
    """
    scale = np.ones(label.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    surfaces = mask_surface(prediction), mask_surface(label)
    return SurfaceDistances(_distances(*surfaces, scale), _distances(*surfaces[::-1], scale))


def surface_dice(prediction: np.ndarray, label: np.ndarray, tolerance: float, spacing: Sequence[float]) -> float:
    """Surface Dice of two boolean masks, at least one of them with a voxel set.

    The share of both surfaces that is at most `tolerance` mm from the other one, the normalised surface distance (NSD)
    of Nikolov et al., arXiv 1809.04430, section "Performance metrics": between the centres of 2×2×2 (in 2-D 2×2)
    voxels, weighted by the area of the surface (the length of the contour) in each.

    Raises:
        ImportError: MONAI, which has the table of areas, is not installed.
    """
    require_areas()
    from monai.metrics.utils import ENCODING_KERNEL, get_code_to_measure_table

    kernel = np.array(ENCODING_KERNEL[label.ndim])
    areas = get_code_to_measure_table(tuple(spacing))[0].numpy().astype(np.float64)
    scale = np.asarray(spacing, dtype=np.float64)
    codes = [_neighbour_codes(mask, kernel) for mask in (prediction, label)]
    borders = [(code > 0) & (code < kernel.sum()) for code in codes]
    near = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        weights = areas[codes[own][borders[own]]]
        total += weights.sum()
        if borders[other].any():
            near += weights[_distances(borders[own], borders[other], scale) <= tolerance].sum()
    return float(near / total)


def require_areas() -> None:
    """Raise an `ImportError` without MONAI, whose table of areas surface Dice uses."""
    if find_spec("monai") is None:
        raise ImportError("nsd takes the areas of surface elements from MONAI: pip install 'samed_hf[metrics]'.")


def _neighbour_codes(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Encode which voxels around each corner of a voxel are set; the mask is padded on all sides."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return correlate(padded, kernel.astype(np.uint8), mode="constant", cval=0)


def _distances(queries: np.ndarray, sites: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the distance of each voxel of one surface to the nearest of another."""
    if sites.size <= _SPARSE * (np.count_nonzero(queries) + np.count_nonzero(sites)):
        return distance_transform_edt(~sites, sampling=scale)[queries]
    where, at = np.argwhere(sites), np.argwhere(queries)
    nearest = KDTree(where * scale, leafsize=32, compact_nodes=False, balanced_tree=False).query(at * scale)[1]
    return step_lengths(where[nearest] - at, scale)
