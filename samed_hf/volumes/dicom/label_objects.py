"""DICOM objects that label a series, structure sets (RTSTRUCT) and segmentations (SEG), as label maps on its grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from ..geometry import Volume
from ..limits import InputLimits
from .headers import is_dicom, quiet, read_file, text, value

__all__ = [
    "LabelObject",
    "Voxels",
    "check_frame_of_reference",
    "item_name",
    "label_kind",
    "read_label_map",
    "read_label_object",
    "to_indices",
]

Voxels = tuple[np.ndarray, np.ndarray, np.ndarray]  # indices along each axis

_LPS = np.array([-1.0, -1.0, 1.0])
_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # label map
}


@dataclass(frozen=True)
class LabelObject:
    """A structure set or a segmentation, without its voxels."""

    path: Path
    kind: str  # "RTSTRUCT" or "SEG"
    patient: str  # PatientID
    description: str  # SeriesDescription
    series: tuple[str, ...]  # SeriesInstanceUID of each series that it refers to
    images: frozenset[str]  # SOPInstanceUID of the images
    names: dict[int, str]  # of its regions or segments that are not empty, by number
    notes: tuple[str, ...]  # for the user, e.g. that a region is empty


def label_kind(path: Path) -> str | None:
    """Return "RTSTRUCT" or "SEG", or `None` for any other file; a damaged one is a `ValueError`."""
    if not is_dicom(path):
        return None
    with quiet():
        return _CLASSES.get(text(read_file(path, tags=["SOPClassUID"]), "SOPClassUID"))


def read_label_object(path: Path) -> LabelObject | None:
    """Describe a structure set or a segmentation by its header; `None` for any other file.

    Raises:
        ValueError: If it is damaged.
    """
    kind = label_kind(path)
    with quiet():
        return _describe(_read(path), kind, path) if kind else None


def read_label_map(path: Path, scan: Volume, names: Sequence[str]) -> tuple[Volume, list[str]]:
    """Place a structure set or a segmentation on the grid of its series.

    Args:
        path: The file.
        scan: The series, read by [`read_series`].
        names: Of the labels 1, 2, …; regions of other names are left out. Where regions overlap, the later label wins.

    Returns:
        The label map on the grid of `scan`, uint8 or uint16, and notes on what overlaps or is inexact.

    Raises:
        ValueError: If it is damaged, or lies on another grid or in another frame of reference.
    """
    from .rtstruct import rtstruct_voxels
    from .seg_reader import seg_voxels

    if scan.is_image:
        raise ValueError(
            f"{printable(path)} refers to {printable(scan.path or '')}, whose images have no positions in the patient: "
            "expected a series of slices; export the labels as masks."
        )
    labels = np.zeros(scan.grid, dtype=np.uint8 if len(names) < 256 else np.uint16)
    numbers = {name: label for label, name in enumerate(names, 1)}
    overlaps: Counter[tuple[int, int]] = Counter()
    notes: list[str] = []
    with quiet():
        dataset = _read(path)
        kind = _CLASSES.get(text(dataset, "SOPClassUID"), "")
        found = {number: name for number, name in _describe(dataset, kind, path).names.items() if name in numbers}
        read = rtstruct_voxels if kind == "RTSTRUCT" else seg_voxels
        for number, voxels in read(dataset, path, scan, found, notes):
            label, before = numbers[found[number]], labels[voxels]
            for other in np.unique(before[(before != 0) & (before != label)]).tolist():
                overlaps[min(other, label), max(other, label)] += int(np.count_nonzero(before == other))
            labels[voxels] = np.maximum(before, label)
    notes += [
        f"{names[one - 1]!r} and {names[other - 1]!r} overlap in {count} voxels, which become {names[other - 1]!r}, "
        "the later label"
        for (one, other), count in sorted(overlaps.items())
    ]
    return Volume(labels, scan.affine, None, path), notes


def _read(path: Path) -> Dataset:
    InputLimits.local().check(path, bytes=path.stat().st_size)
    return read_file(path)


def _describe(dataset: Dataset, kind: str, path: Path) -> LabelObject:
    from .rtstruct import describe_rtstruct
    from .seg_reader import describe_segmentation

    if not kind:
        raise ValueError(f"{printable(path)} is neither a structure set (RTSTRUCT) nor a segmentation (SEG).")
    found = (describe_rtstruct if kind == "RTSTRUCT" else describe_segmentation)(dataset, path)
    several = [(name, count) for name, count in Counter(found.names.values()).items() if count > 1]
    notes = [f"{count} regions are called {name!r}: together they are one label" for name, count in several]
    return replace(found, notes=(*found.notes, *notes))


def item_name(item: Dataset, keyword: str, path: Path) -> str:
    """Return a name as it is stored, without the spaces around it, which DICOM does not count."""
    return printable(str(value(item, keyword, path) or "").strip())


def to_indices(scan: Volume, points: np.ndarray, *, vectors: bool = False) -> np.ndarray:
    """Convert points, or `vectors`, in mm, LPS+, `(n, 3)`, to indices of voxels."""
    inverse = np.linalg.inv(scan.affine)
    return (points * _LPS) @ inverse[:3, :3].T + (0 if vectors else inverse[:3, 3])


def check_frame_of_reference(scan: Volume, uid: str, what: str) -> None:
    """Refuse positions in another frame of reference than the series', if both are known."""
    own = text(scan.header.datasets[0], "FrameOfReferenceUID")
    if uid and own and uid != own:
        raise ValueError(
            f"{what} in the frame of reference {uid}, but {printable(scan.path or 'the scan')} has {own}: expected the "
            "same, as positions in two frames cannot be compared; export it for this series."
        )
