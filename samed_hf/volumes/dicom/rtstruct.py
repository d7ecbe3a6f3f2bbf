"""Structure sets (RTSTRUCT) as labels: contours drawn on the grid of the series that they refer to.

pydicom reads and writes them. rt-utils, the usual library, rounds vertices to whole pixels and needs OpenCV.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from ...utils.text import printable
from ..geometry import Volume
from .contours import fill_contours
from .headers import brief, items, text, value, whole_number
from .label_objects import LabelObject, Voxels, check_frame_of_reference, item_name, to_indices

__all__ = ["describe_rtstruct", "rtstruct_voxels"]

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def describe_rtstruct(dataset: Dataset, path: Path) -> LabelObject:
    """Describe a structure set: its regions with closed contours, and the images that it refers to."""
    _check_whole(dataset, path)
    contours = _contours(dataset, path)
    names, notes = {}, []
    for roi in items(dataset, "StructureSetROISequence", path):
        number = whole_number(roi, "ROINumber", path)
        name = item_name(roi, "ROIName", path) or f"ROI {number}"
        kinds = Counter(text(contour, "ContourGeometricType") or "no type" for contour in contours[number])
        others = {kind: count for kind, count in kinds.items() if kind not in _CLOSED}
        if others:
            listed = ", ".join(f"{count} of {kind}" for kind, count in others.items())
            notes.append(f"the contours of {name!r} that are not closed are left out: {listed}")
        if len(others) < len(kinds):
            names[number] = name
        elif not others:
            notes.append(f"{name!r} has no contour")
    series = [
        one
        for frame in items(dataset, "ReferencedFrameOfReferenceSequence", path)
        for study in items(frame, "RTReferencedStudySequence", path)
        for one in items(study, "RTReferencedSeriesSequence", path)
    ]
    uids = tuple(filter(None, (text(one, "SeriesInstanceUID") for one in series)))
    holders = [*series, *(contour for found in contours.values() for contour in found)]
    images = frozenset(uid for holder in holders for uid in _images(holder, path))
    who, what = text(dataset, "PatientID"), text(dataset, "SeriesDescription")
    return LabelObject(path, "RTSTRUCT", who, what, uids, images, names, tuple(notes))


def rtstruct_voxels(
    dataset: Dataset, path: Path, scan: Volume, names: Mapping[int, str], notes: list[str]
) -> Iterator[tuple[int, Voxels]]:
    """Yield the voxels of each region, slice by slice; `notes` receives what is inexact.

    A contour is drawn on the slice nearest to it, by its position. Of contours at several positions nearest to one
    slice only the nearest are drawn.
    """
    contours = _contours(dataset, path)
    frames = {
        whole_number(roi, "ROINumber", path): text(roi, "ReferencedFrameOfReferenceUID")
        for roi in items(dataset, "StructureSetROISequence", path)
    }
    headers = scan.header.datasets if len(scan.header.datasets) == scan.grid[2] else ()  # not of a multi-frame file
    slices = {text(header, "SOPInstanceUID"): index for index, header in enumerate(headers)}
    for number, name in names.items():
        check_frame_of_reference(scan, frames.get(number, ""), f"{printable(path)} has {name!r}")
        planes = defaultdict(list)
        for contour in contours[number]:
            if text(contour, "ContourGeometricType") in _CLOSED:
                points = to_indices(scan, _points(contour, name, path))
                referenced = [slices[uid] for uid in _images(contour, path) if uid in slices]
                index, off = _nearest_slice(points, referenced, scan, f"{printable(path)} has a contour of {name!r}")
                planes[index].append((off, points[:, :2]))
        if between := sum(abs(off) > 0.1 for found in planes.values() for off, _ in found):
            notes.append(f"{between} contours of {name!r} lie between slices and are drawn on the nearest")
        left_out = 0
        for index, found in sorted(planes.items()):
            nearest = min(found, key=lambda one: abs(one[0]))[0]
            drawn = [points for off, points in found if abs(off - nearest) < 0.05]
            left_out += len(found) - len(drawn)
            columns, rows = np.nonzero(fill_contours(drawn, scan.grid[:2]))
            yield number, (columns, rows, np.full_like(rows, index))
        if left_out:
            notes.append(f"{left_out} contours of {name!r} are left out: others are nearer to their slice")
        if len(planes) > 2 and min(np.diff(sorted(planes))) > 1:
            notes.append(f"{name!r} has contours on no two adjacent slices; the slices between them are background")


def _check_whole(dataset: Dataset, path: Path) -> None:
    """Refuse a structure set that was cut short, which pydicom reads as far as it goes."""
    for keyword in ("StructureSetROISequence", "ROIContourSequence"):
        found = _raw(dataset, keyword, path)
        if found is None or (isinstance(found, RawDataElement) and len(found.value or b"") < found.length < 0xFFFFFFFF):
            raise ValueError(
                f"{printable(path)} has no complete {keyword}, expected a whole structure set; copy or export it again."
            )


def _contours(dataset: Dataset, path: Path) -> dict[int, list[Dataset]]:
    """Return the contours of each region, by its number."""
    found: dict[int, list[Dataset]] = defaultdict(list)
    for roi in items(dataset, "ROIContourSequence", path):
        found[whole_number(roi, "ReferencedROINumber", path)] += items(roi, "ContourSequence", path)
    return found


def _images(holder: Dataset, path: Path) -> set[str]:
    """Return the UIDs of the images that a contour or the whole refers to."""
    return {text(image, "ReferencedSOPInstanceUID") for image in items(holder, "ContourImageSequence", path)} - {""}


def _raw(holder: Dataset, keyword: str, path: Path) -> Any:
    """Return an element before its value is converted, `None` if it is missing."""
    try:
        return holder.get_item(keyword) if keyword in holder else None
    except Exception:  # of an empty value pydicom converts, and fails as in `value`, which names the file
        return value(holder, keyword, path)


def _points(contour: Dataset, name: str, path: Path) -> np.ndarray:
    """Return the vertices of a contour in mm, LPS+, `(points, 3)`."""
    found = _raw(contour, "ContourData", path)
    try:
        # pydicom's conversion of each number would take most of the time.
        parts = (found.value or b"").split(b"\\") if isinstance(found, RawDataElement) else found.value
        points = np.array([float(part) for part in parts]).reshape(-1, 3)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{printable(path)} has damaged ContourData of {name!r} ({brief(error)}).") from error
    if len(points) < 3 or not np.isfinite(points).all() or np.abs(points).max() > 1e6:
        raise ValueError(
            f"{printable(path)} has a closed contour of {name!r} with {len(points)} points, expected at least three "
            "finite ones; remove it, or export the structure set again."
        )
    return points


def _nearest_slice(points: np.ndarray, referenced: list[int], scan: Volume, what: str) -> tuple[int, float]:
    """Return the slice nearest to a contour's plane, and how far it is off, in slices."""
    along = points[:, 2]
    middle = float((along.min() + along.max()) / 2)
    index = round(middle)
    if np.ptp(along) > 0.5:
        problem = f"is not parallel to the slices of {printable(scan.path or 'the scan')}: it spans {np.ptp(along):.1f}"
    elif not 0 <= index < scan.grid[2] or abs(middle - index) > 0.5:
        problem = f"is {middle:.1f} slices from the first of {scan.grid[2]} in {printable(scan.path or 'the scan')}"
    elif referenced and min(abs(middle - one) for one in referenced) > 0.6:
        problem = f"refers to the image of slice {referenced[0]}, but lies at slice {middle:.1f}"
    else:
        return index, middle - index
    raise ValueError(f"{what} that {problem}; draw it on this series, or leave the region out by --label_names.")
