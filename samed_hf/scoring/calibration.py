"""Calibration of the softmax: expected calibration error and Brier score of one case."""

from __future__ import annotations

import numpy as np

__all__ = ["brier_score", "expected_calibration_error"]


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the predicted labels (Guo et al. 2017, equation 3).

    The voxels are divided into `bins` bins of equal width by their confidence; the error is the mean over voxels of the
    difference between each bin's accuracy and mean confidence.

    Args:
        confidence: softmax of each voxel's label, in [0, 1].
        correct: whether each label is the true one, of the same shape.
        bins: number of bins.
    """
    confidence, correct = np.ravel(confidence).astype(np.float64), np.ravel(correct)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # bins (m/M, (m + 1)/M]
    gaps = np.bincount(index, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Brier score in [0, 2]: the mean over voxels of the squared distance between softmax and one-hot label.

    Args:
        probabilities: softmax `(..., num_labels)`.
        label: integers in [0, num_labels - 1], of shape `(...)`.
    """
    flat, values = probabilities.reshape(-1, probabilities.shape[-1]), np.ravel(label).astype(np.int64)
    total = 0.0
    for first in range(0, len(flat), 1 << 20):  # some voxels at a time, as the softmax may be a memory-mapped file
        part = flat[first : first + (1 << 20)].astype(np.float64)
        true = np.take_along_axis(part, values[first : first + len(part), None], axis=1)
        total += float(np.square(part).sum() + (1 - 2 * true).sum())
    return total / len(flat)
