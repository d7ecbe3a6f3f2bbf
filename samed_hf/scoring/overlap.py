"""Scores of one mask pair from counts of voxels, and from connected components."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

__all__ = ["Counts", "Lesions", "match_lesions"]


class Counts(NamedTuple):
    """Voxels of a class in prediction and label."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, prediction: np.ndarray, label: np.ndarray, size: int | None = None) -> Counts:
        """Count the voxels of two boolean masks, cropped from arrays of `size` voxels; by default not cropped."""
        both, predicted, labelled = (int(np.count_nonzero(mask)) for mask in (prediction & label, prediction, label))
        size = label.size if size is None else size
        return cls(both, predicted - both, labelled - both, size - predicted - labelled + both)

    @property
    def dice(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float | None:
        """TP / (TP + FP + FN)."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float | None:
        """TP / (TP + FN), the recall; undefined for an empty label."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP); undefined for an empty prediction."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def specificity(self) -> float | None:
        """TN / (TN + FP); undefined where the label fills the array."""
        return _ratio(self.true_negative, self.true_negative + self.false_positive)


class Lesions(NamedTuple):
    """Connected components of a class that were found, invented and missed."""

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); undefined without any lesion."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)


def match_lesions(prediction: np.ndarray, label: np.ndarray, min_iou: float | None = None) -> Lesions:
    """Match the connected components of two boolean masks, with all neighbours of a voxel connected.

    Args:
        prediction, label: masks of one shape.
        min_iou: intersection over union in (0, 1] from which a pair is a match; each component has at most one, so
            that the number of matches is the largest. `None`: a lesion of the label is found if one of its voxels is,
            and a predicted one is invented if none of its voxels is in the label.
    """
    structure = np.ones((3,) * label.ndim)
    (predicted, num_predicted), (lesions, num_lesions) = (
        ndimage.label(mask, structure) for mask in (prediction, label)
    )
    both = prediction & label
    if min_iou is None:
        found = int(np.count_nonzero(np.bincount(lesions[both], minlength=1)[1:]))
        overlapping = int(np.count_nonzero(np.bincount(predicted[both], minlength=1)[1:]))
        return Lesions(found, num_predicted - overlapping, num_lesions - found)
    shared = np.zeros((num_lesions + 1, num_predicted + 1), dtype=np.int64)
    np.add.at(shared, (lesions[both], predicted[both]), 1)
    sizes = [np.bincount(one.ravel(), minlength=1) for one in (lesions, predicted)]
    union = np.maximum(sizes[0][:, None] + sizes[1][None] - shared, 1)
    matches = (shared / union)[1:, 1:] >= min_iou
    rows, columns = linear_sum_assignment(matches, maximize=True)
    found = int(matches[rows, columns].sum())
    return Lesions(found, num_predicted - found, num_lesions - found)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
