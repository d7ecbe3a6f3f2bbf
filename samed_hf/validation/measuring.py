"""What is measured of one case in a single pass over its slices; little is kept, whatever the size of the scan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from .reading import CaseReading

__all__ = ["CaseFacts", "measure_case"]

# Masks of fewer voxels can agree by chance.
_TELLING = 100


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What is known of a case. What needs the image, or the label, is `None` or empty where it couldn't be read.

    Attributes:
        name, split: of the case.
        shape: slices, height and width.
        spacing: mm along them, or `None`.
        voxel_ml: size of a voxel in ml, or `None`.
        orientation: as the file has it, or `None`.
        oblique: degrees between the scan's axes and the patient's.
        image_type, label_type: types of the files' numbers.
        low, high: least and greatest intensity of each channel.
        whole: whether the intensities are whole numbers, by the sample.
        not_finite: how many intensities are NaN or infinite.
        sample: intensities of voxels spread evenly over the scan, `(channels, count)` float32.
        foreground: the same within the labels, and `classes`, the label of each, `(count,)`.
        voxels: of each label, the background first; `None` without label map.
        labelled: for each slice, whether it shows a label.
        areas: of each label the median of its pixels over the slices that show it, 0 where none does.
        centers: of each label its mean `(slice, row, column)`, NaN where it is missing.
        image_digest, label_digest: equal for equal intensities and for equal label maps; "" where they'd tell nothing.
    """

    name: str
    split: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None = None
    voxel_ml: float | None = None
    orientation: str | None = None
    oblique: float = 0.0
    image_type: str | None = None
    label_type: str | None = None
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    whole: bool = True
    not_finite: int = 0
    sample: np.ndarray | None = None
    foreground: np.ndarray | None = None
    classes: np.ndarray | None = None
    voxels: tuple[int, ...] | None = None
    labelled: tuple[bool, ...] = ()
    areas: tuple[float, ...] = ()
    centers: np.ndarray | None = None
    image_digest: str = ""
    label_digest: str = ""


def measure_case(name: str, split: str, reading: CaseReading, num_labels: int, budget: int) -> CaseFacts | None:
    """Measure a case.

    Args:
        name, split: of the case.
        reading: what could be read of it.
        num_labels: how many labels there are, the background counted.
        budget: how many intensities to keep of the whole scan, and how many of its labels.

    Returns:
        The facts, or `None` where neither image nor label could be read.
    """
    image, label = reading.image, reading.label
    if image is None and label is None:
        return None
    facts: dict[str, object] = {}
    if label is not None:
        facts |= _measure_label(label, num_labels)
        facts["label_type"] = reading.label_type
    if image is not None:
        aligned = label if reading.aligned and label is not None and label.shape[1:] == image.shape[-2:] else None
        facts |= _measure_image(image, aligned, budget)
        facts["image_type"] = str(image.dtype)
    shape = label.shape if image is None else (len(image), *image.shape[-2:])
    return CaseFacts(
        name, split, shape, reading.spacing, reading.voxel_ml, reading.orientation, reading.oblique, **facts
    )


def _measure_label(label: np.ndarray, num_labels: int) -> dict[str, object]:
    counts = np.zeros((len(label), num_labels), np.int64)
    sums = np.zeros((3, num_labels))
    digest = hashlib.blake2b(str(label.shape).encode(), digest_size=16)
    for index, plane in enumerate(label):
        rows, columns = np.nonzero(plane)
        values = plane[rows, columns]
        counts[index] = np.bincount(values, minlength=num_labels)
        counts[index, 0] = plane.size - len(values)
        sums[0] += counts[index] * index
        for axis, places in ((1, rows), (2, columns)):
            sums[axis] += np.bincount(values, weights=places, minlength=num_labels)
        digest.update(np.ascontiguousarray(plane, dtype=np.uint16))
    total = counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centers = (sums / total).T
    centers[0] = np.nan
    areas = [float(np.median(column[column > 0])) if column.any() else 0.0 for column in counts.T]
    telling = total[1:].sum() >= _TELLING and total[0] > 0
    return {
        "voxels": tuple(total.tolist()),
        "labelled": tuple((counts[:, 1:].sum(axis=1) > 0).tolist()),
        "areas": tuple(areas),
        "centers": centers,
        "label_digest": digest.hexdigest() if telling else "",
    }


def _measure_image(image: np.ndarray, label: np.ndarray | None, budget: int) -> dict[str, object]:
    channels = 1 if image.ndim == 3 else image.shape[1]
    step = _step(image.size // channels, budget, image.shape[-1])
    inside = 0 if label is None else int(np.count_nonzero(label))
    step_inside = _step(inside, budget, image.shape[-1])
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    sample, foreground, classes, not_finite, first, first_inside = [], [], [], 0, 0, 0
    for index, plane in enumerate(image):
        # Equal intensities are equal whatever type a file stores them in; adding 0 makes -0 a 0.
        plane = np.ascontiguousarray(plane, dtype=np.float32).reshape(channels, -1) + 0.0
        digest.update(plane)
        if not (finite := np.isfinite(plane)).all():
            not_finite += int(finite.size - np.count_nonzero(finite))
            plane = np.where(finite, plane, np.nanmin(np.where(finite, plane, np.nan)) if finite.any() else 0.0)
        low, high = np.minimum(low, plane.min(axis=1)), np.maximum(high, plane.max(axis=1))
        sample.append(plane[:, first::step].copy())
        first = (first - plane.shape[1]) % step
        if inside:
            values = label[index].ravel()
            places = np.flatnonzero(values)
            taken = places[first_inside::step_inside]
            first_inside = (first_inside - len(places)) % step_inside
            foreground.append(plane[:, taken])
            classes.append(values[taken])
    spread = np.concatenate(sample, axis=1)
    constant = bool((low == high).all())
    return {
        "low": tuple(low.tolist()),
        "high": tuple(high.tolist()),
        "whole": bool((spread == np.round(spread)).all()),
        "not_finite": not_finite,
        "sample": spread,
        "foreground": np.concatenate(foreground, axis=1) if inside else np.zeros((channels, 0), np.float32),
        "classes": np.concatenate(classes) if inside else np.zeros(0, np.uint8),
        "image_digest": "" if constant else digest.hexdigest(),
    }


def _step(size: int, budget: int, width: int) -> int:
    """Every how many-th voxel is kept; with the rows' width in common it would take the same columns always."""
    step = max(1, math.ceil(size / budget))
    while math.gcd(step, width) > 1:
        step += 1
    return step
