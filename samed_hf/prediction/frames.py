"""What becomes of the frames of one case: their rows in the statistics, their slices in the preview."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..inference import Segmentation
from ..reporting.formatting import format_ml, format_number
from ..reporting.preview import PreviewSlices
from ..volumes import Volume

__all__ = ["FrameResult", "are_shown", "describe_sizes", "largest_rows", "split_images"]

_SHOWN = 3


class FrameResult(NamedTuple):
    """One frame, cleaned and measured."""

    labels: np.ndarray
    measured: dict[str, dict[str, Any]]
    removed: dict[str, int]
    shown: PreviewSlices | None = None  # for the preview


def are_shown(count: int) -> set[int]:
    """Choose the frames of a preview among `count`: the first, the middle and the last."""
    return {round(float(place)) for place in np.linspace(0, count - 1, min(count, _SHOWN))}


def split_images(scan: Volume, segmentation: Segmentation) -> Iterator[tuple[Volume, Segmentation]]:
    """Each of several images as a scan of its own; the scan itself if it is one."""
    if not scan.is_image or scan.grid[2] == 1:
        yield scan, segmentation
        return
    for index in range(scan.grid[2]):
        place = np.s_[:, :, index : index + 1]
        one = Segmentation(segmentation.labels[place], segmentation.confidence[place])
        yield replace(scan, array=scan.array[place]), one


def largest_rows(frames: Mapping[int, FrameResult]) -> dict[str, dict[str, Any]]:
    """Of each label the row of the frame in which it is largest, whose index is added as "frame"."""
    rows: dict[str, dict[str, Any]] = {}
    for index, frame in frames.items():
        for name, row in frame.measured.items():
            if name not in rows or _count(row) > _count(rows[name]):
                rows[name] = row | {"frame": index}
    return rows


def describe_sizes(statistics: Mapping[str, Any], label: str) -> str:
    """The size of a label in the statistics of a case; of several frames the smallest and the largest one."""
    rows = [frame["labels"][label] for frame in statistics.get("frames", ())] or [statistics["labels"][label]]
    (low, _), (high, unit) = (_size(one(rows, key=_count)) for one in (min, max))
    return f"{high} {unit}" if low == high else f"{low} to {high} {unit}"


def _size(row: Mapping[str, Any]) -> tuple[str, str]:
    """The size of a label in a row of the statistics and its unit: ml, mm² or pixels."""
    if "ml" in row:
        return format_ml(row["ml"]), "ml"
    return (format_number(row["mm2"]), "mm²") if "mm2" in row else (str(row["pixels"]), "pixels")


def _count(row: Mapping[str, Any]) -> int:
    return int(row["voxels"] if "voxels" in row else row["pixels"])
