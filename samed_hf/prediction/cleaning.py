"""Clean-up of a predicted label map: requested labels, islands, largest components."""

from __future__ import annotations

import numpy as np

from ..inference.postprocessing import keep_labels, keep_largest, remove_islands
from ..volumes import Volume, reorient, restore_orientation
from .settings import PredictionSettings

__all__ = ["clean_labels"]

_CANONICAL = "LPS"


def clean_labels(
    labels: np.ndarray, scan: Volume, id2label: dict[int, str], settings: PredictionSettings
) -> tuple[np.ndarray, dict[str, int]]:
    """Keep the requested labels, remove small islands and keep the largest components, as the settings state.

    Args:
        labels: label map of shape `scan.grid`.
        scan: the scan, for its grid.
        id2label: names of the model's labels.
        settings: what to clean.

    Returns:
        The label map, and the number of voxels removed from each label, without those of labels not requested.
    """
    if settings.labels is not None:
        labels, _ = keep_labels(labels, settings.requested(id2label))
    min_voxels = {index: ml / scan.voxel_ml for index, ml in settings.island_ml(id2label).items()}
    largest = settings.largest_only(id2label)
    if not min_voxels and not largest:
        return labels, {}
    # In one orientation for all files, so that the same of two equally large components is kept.
    array = reorient(Volume(labels, scan.affine), _CANONICAL).array
    removed: dict[str, int] = {}
    array, islands = remove_islands(array, min_voxels)
    array, pieces = keep_largest(array, largest)
    for counts in (islands, pieces):
        for index, count in counts.items():
            removed[id2label[index]] = removed.get(id2label[index], 0) + count
    return restore_orientation(array, scan, _CANONICAL), removed
