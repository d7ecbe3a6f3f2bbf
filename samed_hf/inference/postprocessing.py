"""Clean-up of label maps: selected labels, the largest component of each, no small islands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from scipy import ndimage

__all__ = ["keep_labels", "keep_largest", "remove_islands"]

# Voxels that touch at a corner are connected.
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


def keep_labels(labels: np.ndarray, indices: Iterable[int]) -> np.ndarray:
    """A copy of a label map `(x, y, z)` in which all labels except `indices` are background."""
    kept = {0, *indices}
    highest = int(labels.max(initial=0))
    table = np.array([index if index in kept else 0 for index in range(highest + 1)], dtype=labels.dtype)
    result = np.empty_like(labels)
    for part, target in zip(labels, result, strict=True):  # numpy takes eight bytes for each index
        target[...] = table[part]
    return result


def keep_largest(labels: np.ndarray, indices: Iterable[int]) -> tuple[np.ndarray, dict[int, int]]:
    """Keep only the largest connected component of each of some labels.

    Args:
        labels: label map of shape `(x, y, z)`, an unsigned integer type.
        indices: the labels to clean.

    Returns:
        A new map of the same type, and the number of voxels removed from each label. Voxels that touch at a face, an
        edge or a corner are connected. Of equal components the one with the first voxel in C order stays.
    """
    return _remove(labels, indices, lambda sizes, index: np.arange(len(sizes)) != sizes.argmax())


def remove_islands(labels: np.ndarray, min_voxels: Mapping[int, float]) -> tuple[np.ndarray, dict[int, int]]:
    """Remove connected components smaller than a limit, even the largest one; returns as [`keep_largest`] does.

    Args:
        labels: label map of shape `(x, y, z)`, an unsigned integer type.
        min_voxels: for each label to clean, the smallest number of voxels of a component that stays.
    """
    # A limit in ml is rounded as a number of voxels, which must not remove a component of exactly that size.
    return _remove(labels, min_voxels, lambda sizes, index: sizes < min_voxels[index] * (1 - 1e-9))


def _remove(
    labels: np.ndarray, indices: Iterable[int], small: Callable[[np.ndarray, int], np.ndarray]
) -> tuple[np.ndarray, dict[int, int]]:
    """Remove the components that `small` marks, given their sizes in voxels and the label."""
    result, removed = labels.copy(), {}
    boxes = ndimage.find_objects(labels)
    for index in sorted(set(indices)):
        box = boxes[index - 1] if 0 < index <= len(boxes) else None
        if box is None:
            continue
        # Only in the label's bounding box: numbers of components take four bytes a voxel.
        components, count = ndimage.label(labels[box] == index, _NEIGHBOURS)
        sizes = np.zeros(count + 1, dtype=np.int64)
        for numbers in components:  # numpy takes eight bytes for each index
            sizes += np.bincount(numbers.ravel(), minlength=count + 1)
        removes = np.concatenate([[False], small(sizes[1:], index)])
        if removes.any():
            for part, numbers in zip(result[box], components, strict=True):
                part[removes[numbers]] = 0
            removed[index] = int(sizes[removes].sum())
    return result, removed
