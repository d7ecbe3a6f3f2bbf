"""Measurements of a case in one pass over its slices; their size doesn't depend on that of the scan."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reading import CaseReading

__all__ = ["CaseFacts", "measure_case"]

_MIN_LABELLED = 100  # voxels; smaller label maps can be equal by chance


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """Measurements of a case. Those of an image or label that couldn't be read are `None` or empty."""

    name: str
    split: str
    shape: tuple[int, ...]  # slices, height and width
    spacing: tuple[float, float, float] | None = None  # mm along them
    voxel_ml: float | None = None
    orientation: str | None = None  # of the file
    oblique: float = 0.0  # degrees between the scan's axes and the patient's
    image_type: str | None = None
    label_type: str | None = None
    low: tuple[float, ...] = ()  # minimum intensity of each channel
    high: tuple[float, ...] = ()
    whole: bool = True  # the sampled intensities are whole numbers
    not_finite: int = 0  # number of intensities
    sample: np.ndarray | None = None  # of voxels spread evenly over the scan, `(channels, count)` float32
    foreground: np.ndarray | None = None  # of voxels spread evenly over the labels, `(channels, count)` float32
    classes: np.ndarray | None = None  # label of each of them, `(count,)`
    voxels: tuple[int, ...] = ()  # of each label, the background first
    labelled: tuple[bool, ...] = ()  # whether each slice has a label
    areas: tuple[float, ...] = ()  # median pixels of each label over the slices that have it, 0 if none has
    centers: np.ndarray | None = None  # mean `(slice, row, column)` of each label, NaN for a missing one
    image_digest: str = ""  # equal for equal intensities; "" for a constant image
    label_digest: str = ""  # equal for equal label maps; "" for a nearly empty one


def measure_case(name: str, split: str, reading: CaseReading, num_labels: int, budget: int) -> CaseFacts | None:
    """Measure what could be read of a case, if anything; of scan and labels, `budget` intensities each are sampled."""
    image, label = reading.image, reading.label
    if label is not None and label.max() >= num_labels:  # ignored
        label = np.where(label < num_labels, label, 0).astype(label.dtype)
    copied = ("spacing", "voxel_ml", "orientation", "oblique")
    facts: dict[str, Any] = {name: getattr(reading, name) for name in copied}
    if label is not None:
        facts |= _measure_label(label, num_labels) | {"label_type": reading.label_type, "shape": label.shape}
    if image is not None:
        aligned = label if reading.aligned and label is not None and label.shape[1:] == image.shape[-2:] else None
        facts |= _measure_image(image, aligned, budget)
        facts |= {"image_type": str(image.dtype), "shape": (len(image), *image.shape[-2:])}
    return CaseFacts(name, split, **facts) if "shape" in facts else None


def _measure_label(label: np.ndarray, num_labels: int) -> dict[str, Any]:
    counts = np.zeros((len(label), num_labels), np.int64)
    sums = np.zeros((3, num_labels))
    digest = hashlib.blake2b(str(label.shape).encode(), digest_size=16)
    for index, plane in enumerate(label):
        rows, columns = np.nonzero(plane)
        values = plane[rows, columns]
        counts[index] = np.bincount(values, minlength=num_labels)
        counts[index, 0] = plane.size - len(values)
        sums[0] += counts[index] * index
        for axis, positions in ((1, rows), (2, columns)):
            sums[axis] += np.bincount(values, weights=positions, minlength=num_labels)
        digest.update(np.ascontiguousarray(plane, dtype=np.uint16).data)
    total = counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centers = (sums / total).T
    centers[0] = np.nan
    return {
        "voxels": tuple(total.tolist()),
        "labelled": tuple((counts[:, 1:].sum(axis=1) > 0).tolist()),
        "areas": tuple(float(np.median(column[column > 0])) if column.any() else 0.0 for column in counts.T),
        "centers": centers,
        "label_digest": digest.hexdigest() if total[1:].sum() >= _MIN_LABELLED and total[0] else "",
    }


def _measure_image(image: np.ndarray, label: np.ndarray | None, budget: int) -> dict[str, Any]:
    channels = 1 if image.ndim == 3 else image.shape[1]
    step = _step(image.size // channels, budget, image.shape[-1])
    label_step = _step(0 if label is None else int(np.count_nonzero(label)), budget, image.shape[-1])
    seen = label_seen = 0
    low, high, not_finite = np.full(channels, np.inf), np.full(channels, -np.inf), 0
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    sample, foreground, classes = [], [np.zeros((channels, 0), np.float32)], [np.zeros(0, np.uint8)]
    for index, pixels in enumerate(image):
        # Equal intensities have equal digests for any data type in the file; adding 0 turns -0 into 0.
        plane = np.ascontiguousarray(pixels, dtype=np.float32).reshape(channels, -1) + np.float32(0)
        digest.update(plane.data)
        if not (finite := np.isfinite(plane)).all():
            not_finite += int(finite.size - np.count_nonzero(finite))
            plane = np.where(finite, plane, np.nanmin(np.where(finite, plane, np.nan)) if finite.any() else 0.0)
        low, high = np.minimum(low, plane.min(axis=1)), np.maximum(high, plane.max(axis=1))
        sample.append(plane[:, -seen % step :: step].copy())
        seen += plane.shape[1]
        if label is not None:
            values = label[index].ravel()
            inside = np.flatnonzero(values)
            positions = inside[-label_seen % label_step :: label_step]
            label_seen += len(inside)
            foreground.append(plane[:, positions])
            classes.append(values[positions])
    spread = np.concatenate(sample, axis=1)
    return {
        "low": tuple(low.tolist()),
        "high": tuple(high.tolist()),
        "whole": bool((spread == np.round(spread)).all()),
        "not_finite": not_finite,
        "sample": spread,
        "foreground": np.concatenate(foreground, axis=1),
        "classes": np.concatenate(classes),
        "image_digest": "" if (low == high).all() else digest.hexdigest(),
    }


def _step(size: int, budget: int, width: int) -> int:
    """Return n so that every n-th of `size` voxels, `width` in a row, makes about `budget`."""
    step = max(1, math.ceil(size / budget))
    while math.gcd(step, width) > 1:  # otherwise all voxels would be from the same columns
        step += 1
    return step
