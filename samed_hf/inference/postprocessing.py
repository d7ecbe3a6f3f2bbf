"""A label map cleaned up: some labels alone, the largest piece of each, no small islands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from scipy import ndimage

__all__ = ["keep_labels", "keep_largest", "remove_islands"]

# Voxels that touch at a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


def keep_labels(labels: np.ndarray, indices: Iterable[int]) -> tuple[np.ndarray, dict[int, int]]:
    """Make every other label background; the indices of those kept stay as they are.

    Args:
        labels: Label map of shape `(x, y, z)`, an unsigned integer type.
        indices: The labels to keep; the background, 0, needs no naming.

    Returns:
        A new map of the same type, and the voxels removed of each label that lost any.
    """
    counts = _count(labels, int(labels.max(initial=0)))
    wanted = {0, *indices}
    table = np.array([index if index in wanted else 0 for index in range(len(counts))], dtype=labels.dtype)
    removed = {index: int(count) for index, count in enumerate(counts) if count and index not in wanted}
    result = np.empty_like(labels)
    for part, target in zip(labels, result, strict=True):
        target[...] = table[part]
    return result, removed


def keep_largest(labels: np.ndarray, indices: Iterable[int]) -> tuple[np.ndarray, dict[int, int]]:
    """Leave only the largest connected piece of each of some labels.

    Args:
        labels: Label map of shape `(x, y, z)`, an unsigned integer type.
        indices: The labels to clean.

    Returns:
        A new map of the same type, and the voxels removed of each label that lost any. Voxels that touch at a face, an
        edge or a corner are connected. Of pieces of the same size the one stays whose first voxel, in the order of the
        array in memory order (C), comes first.
    """

    def small(sizes: np.ndarray, index: int) -> np.ndarray:
        return np.arange(len(sizes)) != sizes.argmax()

    return _remove(labels, indices, small)


def remove_islands(labels: np.ndarray, min_voxels: Mapping[int, float]) -> tuple[np.ndarray, dict[int, int]]:
    """Remove the connected pieces of a label that are smaller than a limit, the largest too.

    Args:
        labels: Label map of shape `(x, y, z)`, an unsigned integer type.
        min_voxels: For each label to clean the number of voxels that a piece needs to stay.

    Returns:
        A new map of the same type, and the voxels removed of each label that lost any. Voxels that touch at a face, an
        edge or a corner are connected.
    """

    def small(sizes: np.ndarray, index: int) -> np.ndarray:
        # A limit given in ml is no whole number of voxels: rounding must not remove a piece that has just as many.
        return sizes < min_voxels[index] * (1 - 1e-9)

    return _remove(labels, min_voxels, small)


def _remove(
    labels: np.ndarray, indices: Iterable[int], small: Callable[[np.ndarray, int], np.ndarray]
) -> tuple[np.ndarray, dict[int, int]]:
    """Remove of each label the pieces that `small` marks, from their sizes in voxels, in the order they come."""
    result, removed = labels.copy(), {}
    boxes = ndimage.find_objects(labels)
    for index in sorted(set(indices)):
        box = boxes[index - 1] if 0 < index <= len(boxes) else None
        if box is None:
            continue
        # In the label's own box alone: the numbers of the pieces take four bytes a voxel.
        pieces, count = ndimage.label(labels[box] == index, _NEIGHBOURS)
        sizes = _count(pieces, count)[1:]
        gone = np.concatenate([[False], small(sizes, index)])
        if gone.any():
            for part, numbers in zip(result[box], pieces, strict=True):  # numpy takes eight bytes for each index
                part[gone[numbers]] = 0
            removed[index] = int(sizes[gone[1:]].sum())
    return result, removed


def _count(labels: np.ndarray, highest: int) -> np.ndarray:
    """Voxels of each value from 0 to `highest`, counted slab by slab: numpy takes eight bytes for each index."""
    counts = np.zeros(highest + 1, dtype=np.int64)
    for part in labels:
        counts += np.bincount(part.ravel(), minlength=highest + 1)
    return counts
