"""Painting soft ellipsoids into a map of tissues, on a grid in millimetres; used by the phantom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import interpolate, ndimage

__all__ = ["CODES", "ENDLESS", "LUMEN", "ORGANS", "Grid", "behind", "chain", "make_ct", "paint", "vary", "warped_grid"]


class _Tissue(NamedTuple):
    label: int  # value in the label map, 0 for background
    hu: float  # mean over patients, portal-venous phase
    spread: float  # standard deviation between patients, HU
    texture: float  # standard deviation of the smooth texture inside one patient, HU


_TISSUES: dict[str, _Tissue] = {
    "air": _Tissue(0, -1000, 0, 0),
    "fat": _Tissue(0, -105, 4, 4),
    "belly fat": _Tissue(0, -98, 4, 8),
    "muscle": _Tissue(0, 52, 4, 7),
    "bone": _Tissue(0, 235, 25, 30),
    "rib": _Tissue(0, 330, 30, 40),
    "canal": _Tissue(0, 35, 4, 3),
    "lung": _Tissue(0, -820, 25, 35),
    "heart": _Tissue(0, 140, 10, 6),
    "vein": _Tissue(0, 150, 8, 5),
    "bowel": _Tissue(0, 40, 6, 14),
    "bowel gas": _Tissue(0, -850, 40, 20),
    "spleen": _Tissue(1, 120, 6, 4),
    "right kidney": _Tissue(2, 178, 8, 6),
    "right medulla": _Tissue(2, 148, 8, 8),
    "left kidney": _Tissue(3, 178, 8, 6),
    "left medulla": _Tissue(3, 148, 8, 8),
    "gallbladder": _Tissue(4, 12, 4, 3),
    "liver": _Tissue(5, 105, 7, 5),
    "liver vein": _Tissue(5, 142, 8, 4),
    "stomach": _Tissue(6, 40, 8, 10),
    "stomach gas": _Tissue(6, -880, 30, 15),
    "aorta": _Tissue(7, 180, 9, 4),
    "pancreas": _Tissue(8, 85, 6, 8),
}
CODES = {name: code for code, name in enumerate(_TISSUES)}
_LABELS = np.array([tissue.label for tissue in _TISSUES.values()], dtype=np.uint8)
ORGANS = [name for name, tissue in _TISSUES.items() if tissue.label]

_EXTENT = np.array([192.0, 360.0, 360.0])  # mm covered by (slices, x, y)
ENDLESS = 1e6  # mm, half axis of what runs through the whole scan
LUMEN = np.array([1, 1, 1, 0.78, 0.78, 0.78])  # makes the inside of a hollow organ from its blobs
_SHARPNESS = 4.0  # how fast a blob's density falls; lower melts neighbouring blobs further together


@dataclass(frozen=True)
class Grid:
    """Position of every voxel in the patient, in mm."""

    x: np.ndarray  # each of shape (slices, x, y), float32
    y: np.ndarray
    z: np.ndarray
    ranges: list[tuple[np.ndarray, np.ndarray]]  # lowest and highest z of each slice, x of each row, y of each column

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
        """Give the part of the arrays that holds all voxels between two corners `(x, y, z)` in mm."""
        box = []
        for (lowest, highest), k in zip(self.ranges, (2, 0, 1), strict=True):
            hits = np.flatnonzero((highest >= low[k]) & (lowest <= high[k]))
            box.append(slice(hits[0], hits[-1] + 1) if len(hits) else slice(0, 0))
        return tuple(box)


def _smooth_field(rng: Generator, shape: tuple[int, ...], knots: tuple[int, ...]) -> np.ndarray:
    """Draw a smooth field of shape `shape` and variance near 1 from normal values on a coarse grid of `knots`."""
    field = rng.standard_normal(knots)
    for size, count in zip(shape, knots, strict=True):  # spline zoom, one axis at a time as a matrix product
        field = np.tensordot(field, ndimage.zoom(np.eye(count), (size / count, 1), order=3), axes=(0, 1))
    return (1.2 * field).astype(np.float32)


def warped_grid(rng: Generator, shape: tuple[int, int, int]) -> Grid:
    """Place the patient in the scan: body size, small turn and shift, smooth deformation of some millimetres."""
    size = rng.uniform(0.93, 1.06) * rng.uniform(0.97, 1.03, size=3)
    shift = rng.normal(0, (5, 4, 4))
    turn = rng.normal(0, 0.03)
    axes = [(np.arange(n) - (n - 1) / 2) * mm / n for n, mm in zip(shape, _EXTENT, strict=True)]
    z, x, y = np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True)
    x, y = x + np.float32(turn) * y, y - np.float32(turn) * x
    moved = [
        (points - np.float32(mm)) / np.float32(scale) + np.float32(3.5) * _smooth_field(rng, shape, (5, 7, 7))
        for points, mm, scale in zip((z, x, y), shift, size, strict=True)
    ]
    others = ((1, 2), (0, 2), (0, 1))
    ranges = [(points.min(axis=o), points.max(axis=o)) for points, o in zip(moved, others, strict=True)]
    return Grid(x=moved[1], y=moved[2], z=moved[0], ranges=ranges)


def chain(beads: ArrayLike, count: int = 12) -> np.ndarray:
    """String `count` balls along the smooth curve through `beads`, rows of `(x, y, z, radius)` in mm, as blobs."""
    points = np.asarray(beads, dtype=np.float64)
    curve = interpolate.make_interp_spline(np.linspace(0, 1, len(points)), points, k=min(3, len(points) - 1))
    balls = curve(np.linspace(0, 1, count))
    return np.column_stack([balls[:, :3], balls[:, 3:].repeat(3, axis=1)])


def vary(rng: Generator, organ: ArrayLike, shift: float = 4, size: float = 0.06, tilt: float = 0.08) -> np.ndarray:
    """Move (`shift` in mm), scale (`size`, relative) and tilt (radians) an organ as a whole, and its blobs a little."""
    blobs: np.ndarray = np.array(organ, dtype=np.float64)
    middle = blobs[:, :3].mean(axis=0)
    a, b, c = rng.normal(0, tilt, size=3)
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])  # angles small enough for the first order
    scale = np.exp(rng.normal(0, size))
    blobs[:, :3] = middle + rng.normal(0, shift, size=3) + scale * (blobs[:, :3] - middle) @ turn.T
    blobs[:, 3:] *= scale * np.exp(rng.normal(0, size / 2, size=(len(blobs), 1)))
    return blobs


def behind(level: float) -> np.ndarray:
    """Give the half space behind y = `level` mm as one blob, to cut gas off at the fluid's flat surface."""
    return np.array([(0, level - 1e3, 0, ENDLESS, 1e3, ENDLESS)])


def _density(grid: Grid, box: tuple[slice, ...], blobs: np.ndarray) -> np.ndarray:
    """Sum soft ellipsoids `(x, y, z, rx, ry, rz)` in mm: above 1 inside their smooth union; float32, `box`'s shape."""
    x, y, z = grid.x[box], grid.y[box], grid.z[box]
    total = np.zeros(x.shape, dtype=np.float32)
    for cx, cy, cz, rx, ry, rz in np.asarray(blobs, dtype=np.float32):
        distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2
        total += np.exp(np.float32(_SHARPNESS) * (1 - distance))
    return total


def paint(
    grid: Grid,
    tissue: np.ndarray,
    name: str,
    blobs: np.ndarray,
    over: Collection[str] = ("belly fat", "bowel", "bowel gas", *ORGANS),
    cuts: np.ndarray | None = None,
    rim: float = 1.0,
) -> None:
    """Write a tissue into the map, in place.

    `blobs` and `cuts` are ellipsoids of shape `(n, 6)` in mm: their union is painted without the union of `cuts`, over
    the tissues `over`; organs spare lung, bone and muscle. Other organs give way to a rim of fat down to the density
    `rim`, from 0 to 1; 1 for none.
    """
    box = grid.box((blobs[:, :3] - 1.2 * blobs[:, 3:]).min(axis=0), (blobs[:, :3] + 1.2 * blobs[:, 3:]).max(axis=0))
    density = _density(grid, box, blobs)
    if cuts is not None:
        density[_density(grid, box, cuts) > 1] = 0
    free = np.isin(list(_TISSUES), list(over))[tissue[box]]
    if rim < 1:
        tissue[box][free & (density > rim)] = CODES["belly fat"]
    tissue[box][free & (density > 1)] = CODES[name]


def make_ct(rng: Generator, tissue: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Turn a map of tissues into HU, labels and spacing; what a later organ cut off from an earlier one becomes fat."""
    labels = _LABELS[tissue]
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == number)
        if count > 1:
            largest = np.bincount(parts.ravel())[1:].argmax() + 1
            tissue[box][(parts > 0) & (parts != largest)] = CODES["belly fat"]
    # One value for each tissue of this patient, then texture, partial volume at edges and noise.
    table = np.array([(t.hu, t.spread, t.texture) for t in _TISSUES.values()], dtype=np.float32)
    means = table[:, 0] + table[:, 1] * rng.standard_normal(len(table)).astype(np.float32)
    image = means[tissue] + table[:, 2][tissue] * _smooth_field(rng, tissue.shape, (9, 26, 26))
    image = ndimage.gaussian_filter(image, (0.4, 0.6, 0.6), truncate=2.5)
    noise = rng.standard_normal(tissue.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, 0.5, 0.5), truncate=2)
    image += 12 / noise.std() * noise
    slice_mm, x_mm, y_mm = (float(mm) / n for mm, n in zip(_EXTENT, tissue.shape, strict=True))
    return np.clip(np.rint(image), -1024, 1500).astype(np.int16), _LABELS[tissue], (slice_mm, x_mm, y_mm)
