"""The fingerprint of a data set: sizes, spacings, intensities and labels in numbers, for JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.dataset import CaseDataset
from ..model.image_processing_samed import SamedImageProcessor
from ..utils.text import printable
from .cohort_checks import splits_of
from .measuring import CaseFacts

__all__ = ["PERCENTILES", "channel_titles", "make_fingerprint", "pooled"]

PERCENTILES = (0.5, 1, 5, 25, 50, 75, 95, 99, 99.5)
_AXES = ("slices", "height", "width")
_ANATOMY = {"R": "left_right", "L": "left_right", "A": "front_back", "P": "front_back", "S": "up_down", "I": "up_down"}


def make_fingerprint(data: CaseDataset, processor: SamedImageProcessor, cases: Sequence[CaseFacts]) -> dict[str, Any]:
    """Summarize a data set in numbers.

    Args:
        processor: how the scans were cut.
        cases: measurements of the readable cases.

    Returns:
        - `data`: "root", "layout", "name", "channels", "labels", "pictures" (whether the files are 2-D images).
        - `cut`: how scans were cut: "orientation", "axis_order".
        - `cases`: number of cases of each split; `readable`: number of those with a readable image and label.
        - `shape`: voxels along slices, height and width, each "min", "median", "max"; `spacing_mm` likewise, `None` if
            unknown; `shape_by_anatomy`, `spacing_by_anatomy_mm`: medians "left_right", "front_back", "up_down", if the
            orientation is known.
        - `orientations`, `image_types`: number of files of each.
        - `slices`: number of "labelled" and "unlabelled" ones, by split.
        - `bytes`: of the "largest_case" in memory, image and label, and of all cases decoded on "disk".
        - `intensity`: for each channel "min", "max" (exact) and "all" and "foreground", each with the number of voxels
            "sampled", their "mean", "sd" and "percentiles". All cases have the same number of samples.
        - `labels`: for each label "voxels" and "ml" in total, "voxels_per_case" and "ml_per_case" over the cases that
            have it, "cases" (number), "share_of_cases", "by_split", "area_pixels" (median in the slices with
            it), and "intensity_percentiles".
        - `per_case`: one row for each.
    """
    names = splits_of(data)
    labelled = {split: [one for facts in cases if facts.split == split for one in facts.labelled] for split in names}
    return {
        "version": 1,
        "data": {
            "root": printable(data.root),
            "layout": data.layout,
            "name": printable(data.about.get("name", "")),
            "channels": list(data.channel_names),
            "labels": {str(index): name for index, name in data.id2label.items()},
            "pictures": data.is_2d,
        },
        "cut": {"orientation": processor.orientation, "axis_order": list(processor.axis_order)},
        "cases": {split: len(listed) for split, listed in names.items()},
        "readable": sum(facts.sample is not None and bool(facts.voxels) for facts in cases),
        "shape": _spans([facts.shape for facts in cases]),
        "spacing_mm": _spans([facts.spacing for facts in cases if facts.spacing is not None]),
        "shape_by_anatomy": _by_anatomy([facts.shape for facts in cases], processor),
        "spacing_by_anatomy_mm": _by_anatomy([facts.spacing for facts in cases if facts.spacing], processor),
        "orientations": dict(Counter(facts.orientation for facts in cases if facts.orientation).most_common()),
        "image_types": dict(Counter(facts.image_type for facts in cases if facts.image_type).most_common()),
        "slices": {
            split: {"labelled": sum(slices), "unlabelled": len(slices) - sum(slices)}
            for split, slices in labelled.items()
        },
        "bytes": _bytes(cases),
        "intensity": _intensity(data, cases),
        "labels": {name: _label(index, cases) for index, name in data.id2label.items() if index},
        "per_case": [_row(facts, data.id2label) for facts in cases],
    }


def pooled(cases: Sequence[CaseFacts], channel: int, label: int | None = None) -> np.ndarray:
    """Return the sampled intensities of a channel over all cases; of voxels with a label only, 0 for any label."""
    parts = [np.zeros(0, np.float32)]
    for facts in cases:
        if label is None and facts.sample is not None:
            parts.append(facts.sample[channel])
        elif label is not None and facts.foreground is not None:
            values = facts.foreground[channel]
            parts.append(values if label == 0 else values[facts.classes == label])
    return np.concatenate(parts)


def _span(values: Sequence[float]) -> dict[str, float]:
    return {"min": _plain(min(values)), "median": _plain(np.median(values)), "max": _plain(max(values))}


def _spans(rows: Sequence[Sequence[float]]) -> dict[str, dict[str, float]] | None:
    if not rows:
        return None
    return {axis: _span(values) for axis, values in zip(_AXES, zip(*rows, strict=True), strict=True)}


def _by_anatomy(rows: Sequence[Sequence[float]], processor: SamedImageProcessor) -> dict[str, float] | None:
    """Return the medians along the patient's axes of values along slices, height and width."""
    if not rows or processor.orientation is None:
        return None
    names = [_ANATOMY[processor.orientation[axis]] for axis in processor.axis_order]
    median = dict(zip(names, np.median(rows, axis=0), strict=True))
    return {name: _plain(median[name]) for name in dict.fromkeys(_ANATOMY.values())}


def _bytes(cases: Sequence[CaseFacts]) -> dict[str, int]:
    """Count the bytes of a case's image in its own type, and of its label with one byte for each voxel."""
    sizes = [
        int(np.prod(facts.shape)) * (len(facts.low) * np.dtype(facts.image_type).itemsize + 1)
        for facts in cases
        if facts.image_type is not None
    ]
    return {"largest_case": max(sizes, default=0), "disk": sum(sizes)}


def _intensity(data: CaseDataset, cases: Sequence[CaseFacts]) -> dict[str, Any]:
    known = [facts for facts in cases if facts.sample is not None]
    intensity: dict[str, Any] = {}
    for channel, name in enumerate(channel_titles(data) if known else ()):
        intensity[name] = {
            "min": _plain(min(facts.low[channel] for facts in known)),
            "max": _plain(max(facts.high[channel] for facts in known)),
            "all": _spread(pooled(known, channel)),
            "foreground": _spread(pooled(known, channel, 0)),
        }
    return intensity


def channel_titles(data: CaseDataset) -> list[str]:
    """Return the channels' names; equal ones get their index."""
    names = data.channel_names
    return [name if names.count(name) == 1 else f"{name} {index}" for index, name in enumerate(names)]


def _spread(values: np.ndarray) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {
        "sampled": len(values),
        "mean": _plain(values.mean(dtype=np.float64)),
        "sd": _plain(values.std(dtype=np.float64)),
        "percentiles": _percentiles(values, PERCENTILES),
    }


def _percentiles(values: np.ndarray, which: Sequence[float]) -> dict[str, float]:
    return {f"{one:g}": _plain(value) for one, value in zip(which, np.percentile(values, which), strict=True)}


def _label(index: int, cases: Sequence[CaseFacts]) -> dict[str, Any]:
    known = [facts for facts in cases if facts.voxels]
    shows = [facts for facts in known if facts.voxels[index]]
    ml = [facts.voxels[index] * facts.voxel_ml for facts in shows if facts.voxel_ml is not None]
    voxels = [facts.voxels[index] for facts in shows]
    inside = pooled(cases, 0, index)
    return {
        "index": index,
        "voxels": sum(voxels),
        "ml": _plain(sum(ml)) if ml else None,
        "voxels_per_case": _span(voxels) if voxels else None,
        "ml_per_case": _span(ml) if ml else None,
        "cases": len(shows),
        "share_of_cases": _plain(len(shows) / len(known)) if known else None,
        "by_split": dict(Counter(facts.split for facts in shows)),
        "area_pixels": _plain(np.median([facts.areas[index] for facts in shows])) if shows else None,
        "intensity_percentiles": _percentiles(inside, (5, 50, 95)) if len(inside) else None,
    }


def _row(facts: CaseFacts, id2label: Mapping[int, str]) -> dict[str, Any]:
    return {
        "case": printable(facts.name),
        "split": facts.split,
        "shape": list(facts.shape),
        "spacing_mm": None if facts.spacing is None else [_plain(side) for side in facts.spacing],
        "orientation": facts.orientation,
        "image_type": facts.image_type,
        "min": [_plain(value) for value in facts.low],
        "max": [_plain(value) for value in facts.high],
        "labelled_slices": sum(facts.labelled) if facts.voxels else None,
        "voxels": {name: facts.voxels[index] for index, name in id2label.items() if index} if facts.voxels else None,
    }


def _plain(value: float) -> float | int:
    """Round a number to six significant digits; whole ones become integers."""
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.6g}")
