"""Dice and HD95 of mask pairs and cases, the protocols' scores of empty masks, and the summary over cases.

Two protocols define the score of a class with an empty mask:

| prediction | label | `strict` (default) | `samed` (the reference implementation's) |
|---|---|---|---|
| present | present | Dice, HD95 in mm | Dice, HD95 in voxels |
| present | absent | Dice 0, HD95 undefined | Dice 1, HD95 0 |
| absent | present | Dice 0, HD95 undefined | Dice 0, HD95 0 |
| absent | absent | left out | Dice 0, HD95 0 |

Under `samed` a missed organ lowers the mean HD95; use it to compare with the paper's tables (arXiv 2304.13785).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

import numpy as np

from .hausdorff import class_boxes, hd95, smallest_box
from .measures import Measures, Score

__all__ = [
    "PROTOCOLS",
    "binary_dice",
    "binary_hd95",
    "class_mask",
    "class_members",
    "drop_ignored",
    "score_case",
    "summarize",
]

PROTOCOLS = ("strict", "samed")  # the default first
_MEMORY = 2**31  # bytes for all classes that are scored at the same time
_BYTES = 32  # per voxel of a class's box; less if surfaces are sparse
_DEFAULT = Measures()


def binary_dice(prediction: np.ndarray, label: np.ndarray) -> float:
    """Dice coefficient of two masks.

    Args:
        prediction, label: masks of one shape, `(height, width)` or `(x, y, z)`; nonzero is the object.

    Returns:
        Dice in [0, 1]; 1 when both masks are empty.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D.
    """
    prediction, label = _mask_pair(prediction, label)
    voxels = np.count_nonzero(prediction) + np.count_nonzero(label)
    return float(2.0 * np.count_nonzero(prediction & label) / voxels) if voxels else 1.0


def binary_hd95(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """95th percentile of the symmetric distance between the surfaces of two masks.

    Args:
        prediction, label: masks of one shape, `(height, width)` or `(x, y, z)`; nonzero is the object.
        spacing: size of a voxel in mm along each array axis; `None` measures in voxels.

    Returns:
        Distance in mm, or in voxels without `spacing`; at least 0.

    Raises:
        ValueError: a mask is empty (the distance is undefined), the shapes differ or `spacing` does not fit.
    """
    prediction, label = _mask_pair(prediction, label)
    spacing = _checked_spacing(spacing, prediction.ndim)
    if empty := [name for name, mask in (("prediction", prediction), ("label", label)) if not mask.any()]:
        raise ValueError(
            f"HD95 is undefined: no voxel is set in {' and '.join(empty)}, expected at least one in each mask. "
            "Use score_case, whose protocol defines the score of an empty mask."
        )
    box = smallest_box(prediction, label)
    return hd95(prediction[box], label[box], spacing)


def score_case(
    prediction: np.ndarray,
    label: np.ndarray,
    id2label: Mapping[int, str] | int,
    protocol: str = "strict",
    spacing: Sequence[float] | None = None,
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore_index: int | None = None,
    measures: Measures = _DEFAULT,
    calibration: Mapping[str, Score] | None = None,
) -> dict[str, Score]:
    """Score every class but the background of one case, or every region.

    Threads score several classes at the same time, as many as the process has cores.

    Args:
        prediction, label: integer label maps of one shape, `(height, width)` or `(x, y, z)`, in [0, num_labels - 1].
        id2label: names of the classes 0 … num_labels - 1, class 0 being the background; or `num_labels` alone: the
            classes are then called "1", "2", ….
        protocol: `"strict"` or `"samed"`; see the table at the top of this module.
        spacing: size of a voxel in mm along each array axis; `None` measures in voxels, as `"samed"` always does.
        regions: by name, the classes whose union a region is; these are scored instead of the classes.
        ignore_index: value in `label` of voxels that count as background in both maps.
        measures: the scores to compute; by default Dice and HD95.
        calibration: for the metric of this name, the result of [`Calibration.scores`]: label maps have no probability.

    Returns:
        The scores by the name of the class or region, in order; `None` leaves one out.

    Raises:
        ValueError: the shapes differ, a map is not of integers or holds a value out of range, `id2label` has gaps or a
            name twice, the protocol is unknown, `spacing` does not fit or `calibration` is missing.
    """
    _check_protocol(protocol)
    if "calibration" in measures.metrics and calibration is None:
        raise ValueError("metrics has 'calibration', which label maps don't have: `samed-hf evaluate` computes it.")
    names = _class_names(id2label)
    prediction, label = np.asarray(prediction), np.asarray(label)
    _check_shapes(prediction, label)
    if ignore_index is not None:
        prediction, label = drop_ignored(prediction, label, ignore_index)
    for name, array in (("prediction", prediction), ("label", label)):
        if not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
            raise ValueError(f"{name} is of dtype {array.dtype}, expected integers; convert it, e.g. to numpy.uint8.")
        if array.size and (array.min() < 0 or array.max() > len(names)):
            raise ValueError(
                f"{name} holds values from {array.min()} to {array.max()}, expected 0 to {len(names)} for "
                f"{len(names) + 1} labels with the background; check id2label or map the other values to 0."
            )
    spacing = _checked_spacing(spacing, prediction.ndim)
    small = np.min_scalar_type(len(names))
    prediction, label = prediction.astype(small, copy=False), label.astype(small, copy=False)
    boxes = class_boxes(prediction, label, len(names))
    if regions:
        names = list(regions)
        boxes = [_joint_box([boxes[index - 1] for index in members]) for members in regions.values()]
    measures.check(protocol, names)
    members = list(class_members(id2label, regions).values())
    sizes = [label[box].size for box in boxes]

    def score(index: int) -> Score:
        in_prediction, in_label = (class_mask(array[boxes[index]], members[index]) for array in (prediction, label))
        extra = (calibration or {}).get(names[index], {})
        return measures.score(names[index], in_prediction, in_label, protocol, spacing, label.size, extra)

    largest_first = sorted(range(len(names)), key=lambda index: sizes[index], reverse=True)
    with ThreadPoolExecutor(_threads(sizes), "score") as pool:
        scores = dict(zip(largest_first, pool.map(score, largest_first), strict=True))
    return {name: scores[index] for index, name in enumerate(names)}


def class_members(
    id2label: Mapping[int, str] | int, regions: Mapping[str, Sequence[int]] | None
) -> Mapping[str, Sequence[int]]:
    """The labels of each class that is scored: the regions, or every label but the background."""
    return regions or {name: (index,) for index, name in enumerate(_class_names(id2label), 1)}


def class_mask(array: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Where an integer label map has one of some classes."""
    return array == classes[0] if len(classes) == 1 else np.isin(array, classes)


def drop_ignored(prediction: np.ndarray, label: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and label with background where the label is `ignore_index`; the given arrays if it is nowhere."""
    ignored = label == ignore_index
    if not ignored.any():
        return prediction, label
    return np.where(ignored, 0, prediction).astype(prediction.dtype), np.where(ignored, 0, label).astype(label.dtype)


def _joint_box(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around boxes of which some may be empty."""
    found = [box for box in boxes if all(side.stop > side.start for side in box)]
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*found or boxes, strict=True)
    )


def summarize(cases: Mapping[str, Mapping[str, Score]], protocol: str = "strict") -> dict[str, Any]:
    """Average the scores of cases, over the cases of each class and then over the classes.

    Args:
        cases: scores returned by `score_case`, by the name of the case.
        protocol: the protocol under which the cases were scored.

    Returns:
        A dictionary ready for JSON, with `None` and never NaN where nothing is defined:
        `{"protocol", "mean": {"dice", "hd95"}, "per_class": {label: {"dice", "hd95", "cases", "hd95_undefined"}},
        "per_case": {case: {label: {"dice", "hd95"}}}}`. Each mean is over the defined scores. `cases` counts the cases
        with the class in prediction or label, `hd95_undefined` those among them without an HD95, since one mask was
        empty; likewise for each other score that is undefined in a case.

    Raises:
        ValueError: there is no case, the protocol is unknown, or scores are undefined that `"samed"` defines.
    """
    _check_protocol(protocol)
    if not cases:
        raise ValueError("cases is empty, expected the scores of at least one case; check the list of cases to score.")
    by_class: dict[str, list[Score]] = {}
    for case, scores in cases.items():
        for name, score in scores.items():
            if protocol == "samed" and None in score.values():
                raise ValueError(
                    f"cases[{case!r}][{name!r}] is {score}, expected defined scores under protocol 'samed'; "
                    "score the cases with protocol='samed' as well."
                )
            by_class.setdefault(name, []).append(score)
    keys = list(next(iter(by_class.values()))[0])
    per_class = {name: _summarize_class(scores, keys) for name, scores in by_class.items()}
    return {
        "protocol": protocol,
        "mean": {key: _mean([row[key] for row in per_class.values()]) for key in keys},
        "per_class": per_class,
        "per_case": {case: dict(scores) for case, scores in cases.items()},
    }


def _summarize_class(scores: Sequence[Score], keys: Sequence[str]) -> dict[str, float | int | None]:
    present = [score for score in scores if any(value is not None for value in score.values())]
    undefined = {f"{key}_undefined": sum(score[key] is None for score in present) for key in keys}
    listed = {name: count for name, count in undefined.items() if count or name == "hd95_undefined"}
    return {key: _mean([score[key] for score in scores]) for key in keys} | {"cases": len(present)} | listed


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the defined values, or `None` if there are none."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def _mask_pair(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, label = np.asarray(prediction), np.asarray(label)
    _check_shapes(prediction, label)
    return prediction.astype(bool, copy=False), label.astype(bool, copy=False)


def _threads(sizes: Sequence[int]) -> int:
    """Return how many classes to score at the same time, given the voxels of their boxes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, len(sizes), _MEMORY // max(_BYTES * max(sizes), 1)))


def _class_names(id2label: Mapping[int, str] | int) -> list[str]:
    """Return the names of the classes 1 … num_labels - 1, in order."""
    if isinstance(id2label, int | np.integer):
        if id2label < 2:
            raise ValueError(f"id2label is {id2label}, expected at least 2 labels: the background and one class.")
        return [str(index) for index in range(1, id2label)]
    try:
        # JSON turns the keys of a config's id2label into strings.
        names = {int(index): name for index, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f'id2label is {id2label!r}, expected a dictionary such as {{0: "background", 1: "spleen"}} or the number '
            "of labels; for a label2id, swap keys and values."
        ) from None
    if len(names) < 2 or sorted(names) != list(range(len(names))):
        raise ValueError(
            f"id2label has the classes {sorted(names)}, expected 0 (the background), 1, 2, … without a gap; "
            "name every class, including the background."
        )
    ordered = [names[index] for index in range(1, len(names))]
    if len(set(ordered)) < len(ordered):
        raise ValueError(f"id2label names the classes {ordered}, expected each name once; rename the duplicates.")
    return ordered


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(map(repr, PROTOCOLS))}.")


def _check_shapes(prediction: np.ndarray, label: np.ndarray) -> None:
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape} and label has shape {label.shape}, expected the same; "
            "bring the prediction back to the grid of the label."
        )
    if prediction.ndim not in (2, 3):
        raise ValueError(f"prediction and label have shape {prediction.shape}, expected two or three axes.")


def _checked_spacing(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    values = np.asarray(spacing, dtype=np.float64)
    if values.shape != (ndim,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"spacing is {spacing!r}, expected {ndim} positive numbers in mm, one for each array axis.")
    return tuple(values.tolist())
