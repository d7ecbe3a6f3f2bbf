"""The images of a DICOM file, single-frame or enhanced multi-frame, each with its place in the body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from .headers import numbers, text, value, whole_number

__all__ = ["Frame", "frames_of", "what_differs"]

# By what several images at one place can be told apart: keyword, and the functional group of an enhanced file.
_KINDS = {
    "EchoTime": "",
    "EffectiveEchoTime": "MREchoSequence",
    "TemporalPositionIdentifier": "",
    "TemporalPositionIndex": "FrameContentSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "InversionTime": "",
    "TriggerTime": "",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "AcquisitionNumber": "",
    "ImageType": "",
    "FrameType": "MRImageFrameTypeSequence",
    "StackID": "FrameContentSequence",
    "ConvolutionKernel": "",
    "AcquisitionTime": "",
    "SeriesDescription": "",
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a series.

    Attributes:
        path: The file.
        dataset: Its header.
        index: The image's number in a multi-frame file, from 0.
        size: Columns and rows.
        position: `(3,)`, centre of the first pixel in mm, LPS+ (DICOM's own).
        along_row, along_column: `(3,)`, unit vectors of the direction of growing column and row numbers.
        spacing: Distance in mm between neighbouring columns, and between neighbouring rows.
        slope, intercept: From stored values to the scan's, e.g. HU.
        between, thickness: `SpacingBetweenSlices` and `SliceThickness` in mm; 0 where the file doesn't say.
    """

    path: Path
    dataset: Dataset
    index: int
    size: tuple[int, int]
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    slope: float
    intercept: float
    between: float
    thickness: float

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the image, `(3,)`, LPS+."""
        return np.cross(self.along_row, self.along_column)


def frames_of(dataset: Dataset, path: Path) -> list[Frame]:
    """The images of a file.

    Raises:
        ValueError: They are in colour, lie nowhere, or the header contradicts itself.
    """
    _check_grey(dataset, path)
    size = (whole_number(dataset, "Columns", path), whole_number(dataset, "Rows", path))
    if 0 in size:
        raise ValueError(
            f"{printable(path)} has an image of {size[0]}×{size[1]} pixels; copy or export the file again."
        )
    if value(dataset, "ModalityLUTSequence", path) is not None:
        raise ValueError(
            f"{printable(path)} maps its values by a table (ModalityLUTSequence), expected RescaleSlope and "
            "RescaleIntercept; convert the series, e.g. with dcm2niix."
        )
    if "MOSAIC" in text(dataset, "ImageType").split("\\"):
        raise ValueError(
            f"{printable(path)} is a mosaic: all slices side by side in one picture, expected an image for each; "
            "convert the series, e.g. with dcm2niix."
        )
    count = whole_number(dataset, "NumberOfFrames", path, default=1)
    groups = value(dataset, "PerFrameFunctionalGroupsSequence", path)
    if groups is None:
        if count != 1:
            raise ValueError(
                f"{printable(path)} holds {count} frames without saying where each lies (no "
                "PerFrameFunctionalGroupsSequence); "
                "of multi-frame files the enhanced kinds are read: export the series as single images or as NIfTI."
            )
        return [_frame(dataset, path, 0, size, [dataset])]
    if len(groups) != count:
        raise ValueError(
            f"{printable(path)} announces {count} frames and describes {len(groups)}; it is damaged: copy or "
            "export it again."
        )
    shared = next(iter(value(dataset, "SharedFunctionalGroupsSequence", path) or []), Dataset())
    return [_frame(dataset, path, index, size, [own, shared]) for index, own in enumerate(groups)]


def what_differs(frames: list[Frame]) -> str:
    """By what several images at one place differ, as `EchoTime: 2.3, 4.6`; empty where no header tells."""
    for keyword, group in _KINDS.items():
        found = {text(place, keyword) for frame in frames for place in _places(frame, group)} - {""}
        if len(found) > 1:
            listed = sorted(found)
            return f"{keyword}: {', '.join(listed[:4])}{', …' if len(listed) > 4 else ''}"
    return ""


def _check_grey(dataset: Dataset, path: Path) -> None:
    kind = text(dataset, "PhotometricInterpretation")
    samples = whole_number(dataset, "SamplesPerPixel", path, default=1)
    if samples != 1 or not kind.startswith("MONOCHROME"):
        raise ValueError(
            f"{printable(path)} holds a picture of {kind or 'an unknown colour space'} with {samples} values per "
            "pixel, expected greyscale (MONOCHROME1 or MONOCHROME2); export a colour picture as PNG."
        )


def _frame(dataset: Dataset, path: Path, index: int, size: tuple[int, int], places: list[Dataset]) -> Frame:
    """Read one image's geometry; of an enhanced file, `places` are its own functional groups and the shared ones."""

    def place(group: str, keyword: str) -> Dataset:
        inside = [item for holder in places for item in _items(holder, group, path)] or places
        return next((item for item in inside if keyword in item), inside[0])

    def read(
        group: str, keyword: str, count: int, *, positive: bool = False, default: tuple[float, ...] | None = None
    ) -> tuple[float, ...]:
        return numbers(place(group, keyword), keyword, count, path, positive=positive, default=default)

    directions = read("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    row, column = _unit_vectors(directions, path)
    rows_apart, columns_apart = read("PixelMeasuresSequence", "PixelSpacing", 2, positive=True)
    # Some scanners write a negative one.
    between, thickness = (
        abs(read("PixelMeasuresSequence", keyword, 1, default=(0.0,))[0])
        for keyword in ("SpacingBetweenSlices", "SliceThickness")
    )
    slope = read("PixelValueTransformationSequence", "RescaleSlope", 1, default=(1.0,))[0]
    if slope == 0:
        raise ValueError(
            f"{printable(path)} has RescaleSlope 0, which makes all values the same; export the series again."
        )
    return Frame(
        path=path,
        dataset=dataset,
        index=index,
        size=size,
        position=np.array(read("PlanePositionSequence", "ImagePositionPatient", 3)),
        along_row=row,
        along_column=column,
        spacing=(columns_apart, rows_apart),
        slope=slope,
        intercept=read("PixelValueTransformationSequence", "RescaleIntercept", 1, default=(0.0,))[0],
        between=between,
        thickness=thickness,
    )


def _unit_vectors(directions: tuple[float, ...], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Both directions at unit length and a right angle, where the file's are so but for rounding (1 %)."""
    row, column = np.array(directions[:3]), np.array(directions[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise ValueError(
            f"{printable(path)} has ImageOrientationPatient {list(directions)}, expected two unit vectors at a "
            "right angle; the file is damaged or was written wrongly: copy or export it again."
        )
    row = row / lengths[0]
    column = column - (row @ column) * row
    return row, column / np.linalg.norm(column)


def _items(holder: Dataset, group: str, path: Path) -> list[Dataset]:
    if group not in holder:
        return []
    found = value(holder, group, path)
    return [item for item in found or [] if isinstance(item, Dataset)]


def _places(frame: Frame, group: str) -> Iterator[Dataset]:
    """Where an element of an image can stand."""
    if not group:
        yield frame.dataset
        return
    groups = value(frame.dataset, "PerFrameFunctionalGroupsSequence", frame.path)
    if groups is not None:
        yield from _items(groups[frame.index], group, frame.path)
