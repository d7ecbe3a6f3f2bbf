"""Measurements of a segmentation: volume, intensities, confidence, position, and contact with the scan's border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from ..volumes.geometry import Volume

__all__ = ["measure_labels", "measure_regions", "part_names"]

# Voxels searched at a time: some 50 MB of indices and values.
_VOXELS_AT_ONCE = 1 << 20
_FACES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_IMAGE_FACES = (("left", "right"), ("top", "bottom"), None)


def measure_labels(
    labels: np.ndarray,
    scan: Volume,
    id2label: Mapping[int, str],
    *,
    confidence: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure every label of a segmentation.

    Args:
        labels: label map of shape `scan.grid`, an unsigned integer type; values without a name are ignored.
        scan: in its own intensities (HU for CT), of one or several channels.
        id2label: the background, 0, is not measured.
        confidence: softmax of each voxel's label in [0, 1], of shape `scan.grid`.

    Returns:
        By the name of the label, ready for JSON; values are `None` if undefined, as for a label not found:

        - `index`: its value in the label map.
        - `voxels` and `ml`; of an image `pixels`, and `mm2` if it is calibrated.
        - `mean_intensity`, `sd_intensity`: over the label's voxels, in the scan's unit; the SD is the population's
            (divided by n). Lists with a number for each channel if the scan has several.
        - `mean_confidence`: only with `confidence`.
        - `touches_border`, `border_faces`: whether and where the label reaches the scan's outermost voxels, so that the
            organ may extend beyond it; e.g. `["superior"]`, or `["left", "bottom"]` for an image.
        - `bounding_box`: first and last voxel along each axis of the file, counted from 0.
        - `center_ras_mm`: centre of mass in RAS mm as in NIfTI; not for an image.
    """
    for name, array in (("labels", labels), ("confidence", confidence)):
        if array is not None and array.shape != scan.grid:
            raise ValueError(f"{name} has shape {array.shape}, expected {scan.grid} as the scan has.")
    named = sorted(index for index in id2label if index)
    highest = max([int(labels.max()), *named])
    moments = _Moments(highest + 1, scan.num_channels + 3 + (confidence is not None))
    axis = int(np.argmax(labels.shape))
    step = max(1, _VOXELS_AT_ONCE * labels.shape[axis] // labels.size)
    for first in range(0, labels.shape[axis], step):
        part = tuple(slice(first, first + step) if one == axis else slice(None) for one in range(labels.ndim))
        where = np.nonzero(labels[part])
        channels = scan.array[part][where].reshape(len(where[0]), scan.num_channels).T
        positions = [axis + (along.start or 0) for axis, along in zip(where, part, strict=True)]
        softmax = [] if confidence is None else [confidence[part][where]]
        moments.add(labels[part][where], [*channels, *positions, *softmax])
    boxes = ndimage.find_objects(labels, max_label=highest)
    return {id2label[index]: _row(index, moments, boxes[index - 1], scan) for index in named}


def measure_regions(
    labels: np.ndarray,
    scan: Volume,
    regions: Mapping[int, tuple[str, Sequence[int]]],
    *,
    confidence: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """[`measure_labels`] for regions, by an index name and labels of each; `labels` in a row are its values."""
    rows = {}
    for index, (name, members) in regions.items():
        mask = np.isin(labels, members).astype(np.uint8)
        (row,) = measure_labels(mask, scan, {1: name}, confidence=confidence).values()
        rows[name] = row | {"index": index, "labels": list(members)}
    return rows


class _Moments:
    """Count, mean and sum of squared deviations of several quantities for each label, accumulated over parts.

    Chan's formula (1979) is used: sums of squares would lose the digits of a small spread around a large mean.
    """

    def __init__(self, num_labels: int, quantities: int) -> None:
        self.count = np.zeros(num_labels)
        self.mean = np.zeros((quantities, num_labels))
        self.squares = np.zeros((quantities, num_labels))

    def add(self, labels: np.ndarray, quantities: list[np.ndarray]) -> None:
        size = len(self.count)
        count = np.bincount(labels, minlength=size).astype(np.float64)
        total = self.count + count
        share = np.divide(count, total, out=np.zeros(size), where=total > 0)
        for row, values in enumerate(quantities):
            values = values.astype(np.float64)
            sums = np.bincount(labels, weights=values, minlength=size)
            mean = np.divide(sums, count, out=np.zeros(size), where=count > 0)
            squares = np.bincount(labels, weights=(values - mean[labels]) ** 2, minlength=size)
            apart = mean - self.mean[row]
            self.mean[row] += apart * share
            self.squares[row] += squares + apart**2 * self.count * share
        self.count = total


def _row(index: int, moments: _Moments, box: tuple[slice, ...] | None, scan: Volume) -> dict[str, Any]:
    count, channels = int(moments.count[index]), scan.num_channels
    mean = moments.mean[:, index]
    deviation = np.sqrt(moments.squares[:channels, index] / max(1, count))
    faces: list[str] = []
    for axis, letter in enumerate(scan.orientation):
        low_high = _IMAGE_FACES[axis] if scan.is_image else (_FACES[_OPPOSITE[letter]], _FACES[letter])
        if box is not None and low_high is not None and scan.grid[axis] > 1:  # an axis of one voxel has no faces
            reached = (box[axis].start == 0, box[axis].stop == scan.grid[axis])
            faces += [face for face, touches in zip(low_high, reached, strict=True) if touches]
    row: dict[str, Any] = {"index": index, "pixels" if scan.is_image else "voxels": count}
    if not scan.is_image:
        row["ml"] = count * scan.voxel_ml
    elif scan.is_calibrated:
        row["mm2"] = count * scan.spacing[0] * scan.spacing[1]
    row["mean_intensity"] = mean[:channels].squeeze().tolist() if count else None  # one channel: a number
    row["sd_intensity"] = deviation.squeeze().tolist() if count else None
    if len(mean) > channels + 3:
        row["mean_confidence"] = float(mean[-1]) if count else None
    row |= {"touches_border": bool(faces), "border_faces": faces}
    row["bounding_box"] = None if box is None else [[along.start, along.stop - 1] for along in box]
    if not scan.is_image:
        center = nib.affines.apply_affine(scan.affine, mean[channels : channels + 3])
        row["center_ras_mm"] = center.tolist() if count else None
    return row


def part_names(regions: Mapping[int, tuple[str, list[int]]], names: Mapping[int, str]) -> dict[int, str]:
    """Names of the labels in a label map, of which those of regions are parts."""
    whole = {name for name, members in regions.values() if len(members) == 1}
    return {index: name if not regions or name in whole else f"{name} (rest)" for index, name in names.items()}
