"""Closed contours of a slice: from a mask to polygons, and from polygons to a mask."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

__all__ = ["fill_contours", "trace_contours"]

_CROSSINGS = 1 << 22  # of edges and lines computed at once, which bounds the memory


def fill_contours(contours: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Draw closed contours as a mask by the even-odd rule.

    A pixel belongs to the mask if its centre is inside an odd number of contours: a contour inside another is a hole,
    and a channel that joins a hole to its outer contour (keyhole) has no width. A centre on the boundary is inside at
    the side of low columns and rows only, so that areas side by side share no pixel.

    Args:
        contours: the vertices of each, `(points, 2)`, columns and rows; pixel centres are whole numbers.
        size: columns and rows of the mask; what lies outside is cut off.

    Returns:
        The mask, bool of shape `(columns, rows)`.
    """
    columns, rows = size
    parity = np.zeros((columns + 1) * rows, dtype=bool)
    for points in contours:
        edges = np.stack([points, np.roll(points, -1, axis=0)], axis=1).astype(np.float64)
        # Both directions of an edge are computed alike, so that the two sides of a channel cancel exactly.
        edges = np.take_along_axis(edges, np.argsort(edges[:, :, 1], axis=1, kind="stable")[:, :, None], axis=1)
        for part in np.array_split(edges, 1 + len(edges) * rows // _CROSSINGS):
            (x, y), (x_end, y_end) = part[:, 0].T, part[:, 1].T
            first, end = (np.clip(np.ceil(at), 0, rows).astype(int) for at in (y, y_end))
            edge = np.repeat(np.arange(len(part)), end - first)
            row = np.arange(len(edge)) - np.repeat(np.cumsum(end - first) - end, end - first)
            at = x[edge] + (row - y[edge]) * ((x_end - x)[edge] / (y_end - y)[edge])
            column = np.clip(np.ceil(at), 0, columns).astype(int)
            parity ^= np.bincount(column * rows + row, minlength=len(parity)) % 2 == 1
    return np.logical_xor.accumulate(parity.reshape(columns + 1, rows), axis=0)[:columns]


def trace_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outer contours of a mask `(columns, rows)`, each of shape `(points, 2)`, columns and rows.

    They pass halfway between the centres of pixels inside and outside, so that [`fill_contours`] restores the mask.
    A hole is joined to its outer contour by a channel without width.
    """
    import contourpy  # comes with matplotlib

    padded = np.pad(mask.T.astype(np.float64), 1)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    contours = []
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        # Each ring repeats its first point; DICOM's contours do not.
        outer, *holes = (points[start : end - 1] - 1 for start, end in pairwise(offsets))
        for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
            outer = _with_hole(outer, hole)
        contours.append(outer)
    return contours


def _with_hole(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Join a hole to its outer contour at the vertices nearest to the hole's leftmost one."""
    start = int(hole[:, 0].argmin())
    near = int(((outer - hole[start]) ** 2).sum(axis=1).argmin())
    ring = np.roll(hole, -start, axis=0)
    return np.concatenate([outer[: near + 1], ring, ring[:1], outer[near:]])
