"""Closed contours of a slice: from a mask to polygons, and from polygons to a mask."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

__all__ = ["fill_contours", "trace_contours"]

_CROSSINGS = 1 << 22  # of edges and rows computed at once, which bounds the memory
_LEVEL = 0.51  # just inside of the middle between two centres, so that readers that round reach the centre inside


def fill_contours(contours: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Draw closed contours as a mask by the even-odd rule.

    A pixel belongs to the mask if its centre is inside an odd number of contours or, to a thousandth of a pixel, on one
    of them. So a contour inside another is a hole, and a channel that joins a hole to its outer contour (keyhole) has
    no width.

    Args:
        contours: the vertices of each, `(points, 2)`, columns and rows; pixel centres are whole numbers.
        size: columns and rows of the mask; what lies outside is cut off.

    Returns:
        The mask, bool of shape `(columns, rows)`.
    """
    columns, rows = size
    parity, touched = np.zeros((columns + 1) * rows, dtype=bool), np.zeros((columns + 1) * rows, dtype=np.int64)
    rounded = [np.round(points, 3) for points in contours]
    pairs = [np.stack([points, np.roll(points, -1, axis=0)], axis=1) for points in rounded]
    edges = np.concatenate([np.empty((0, 2, 2)), *pairs])
    # Both directions of an edge are computed alike, so that the two sides of a channel cancel exactly.
    edges = np.take_along_axis(edges, np.argsort(edges[:, :, 1], axis=1, kind="stable")[:, :, None], axis=1)
    for part in np.array_split(edges, 1 + len(edges) * rows // _CROSSINGS):
        row, left, right, is_end = _crossings(part, rows)
        first, end = (np.clip(at, 0, columns).astype(int) for at in (np.ceil(left - 1e-9), np.floor(right + 1e-9) + 1))
        parity ^= np.bincount((first * rows + row)[~is_end], minlength=len(parity)) % 2 == 1
        for at, step in ((first, 1), (np.maximum(first, end), -1)):
            touched += step * np.bincount(at * rows + row, minlength=len(touched))
    inside = np.logical_xor.accumulate(parity.reshape(columns + 1, rows), axis=0)
    return (inside | (np.cumsum(touched.reshape(columns + 1, rows), axis=0) > 0))[:columns]


def _crossings(edges: np.ndarray, rows: int) -> tuple[np.ndarray, ...]:
    """Return each row that an edge `(2, 2)`, its first end at the lower row, meets; where, from left to right; and
    whether only the edge's last end does, which the next edge counts."""
    (x, y), (x_end, y_end) = edges[:, 0].T, edges[:, 1].T
    first = np.clip(np.ceil(y), 0, rows).astype(int)
    count = np.maximum(np.clip(np.floor(y_end) + 1, 0, rows).astype(int) - first, 0)
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    x, y, x_end, y_end = x[edge], y[edge], x_end[edge], y_end[edge]
    is_level = y == y_end
    at = x + (row - y) * (x_end - x) / np.where(is_level, 1.0, y_end - y)
    return row, np.where(is_level, np.minimum(x, x_end), at), np.where(is_level, np.maximum(x, x_end), at), row == y_end


def trace_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outer contours of a mask `(columns, rows)`, each of shape `(points, 2)`, columns and rows.

    They pass in the middle between the centres of pixels inside and outside, so that [`fill_contours`] restores the
    mask.
    A hole is joined to its outer contour by a channel without width.
    """
    import contourpy  # comes with matplotlib

    if not mask.any():
        return []
    pixels = np.argwhere(mask)
    low, high = pixels.min(axis=0), pixels.max(axis=0) + 1
    padded = np.pad(mask[low[0] : high[0], low[1] : high[1]].T.astype(np.float64), 1)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    contours = []
    for points, offsets in zip(*generator.filled(_LEVEL, 2.0), strict=True):
        # Each ring repeats its first point; DICOM's contours do not.
        outer, *holes = (points[start : end - 1] + low - 1 for start, end in pairwise(offsets))
        for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
            outer = _with_hole(outer, hole)
        contours.append(outer)
    return contours


def _with_hole(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Join a hole to what is left of its leftmost vertex in the same row, so that the channel is inside of the mask."""
    start = int(hole[:, 0].argmin())
    left = np.flatnonzero((outer[:, 1] == hole[start, 1]) & (outer[:, 0] < hole[start, 0]))
    near = int(left[outer[left, 0].argmax()])
    ring = np.roll(hole, -start, axis=0)
    return np.concatenate([outer[: near + 1], ring, ring[:1], outer[near:]])
