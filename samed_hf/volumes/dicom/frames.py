"""The images of a DICOM file, single-frame or enhanced multi-frame, with their geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from .headers import items, numbers, text, value, whole_number

__all__ = ["Frame", "frames_of", "nuclear_planes", "what_differs"]

# What distinguishes images at the same position: keyword, and the functional group of an enhanced file.
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
    """One image of a series, in DICOM's coordinates: mm, LPS+."""

    path: Path
    dataset: Dataset  # header of the file
    groups: Dataset  # the image's own functional groups; the header of a single-frame file
    index: int  # in a multi-frame file, from 0
    size: tuple[int, int]  # columns, rows
    position: np.ndarray  # (3,), centre of the first pixel
    directions: np.ndarray  # (2, 3), unit vectors to the next column and to the next row
    spacing: tuple[float, float]  # between columns, between rows
    slope: float
    intercept: float
    between: float  # SpacingBetweenSlices, 0 if missing
    thickness: float  # SliceThickness, 0 if missing

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the image, `(3,)`."""
        return np.cross(*self.directions)


def frames_of(dataset: Dataset, path: Path) -> list[Frame]:
    """Return the images of a file; one in colour, without a position or with a contradictory header is an error."""
    size = whole_number(dataset, "Columns", path), whole_number(dataset, "Rows", path)
    kind = text(dataset, "PhotometricInterpretation")
    samples = whole_number(dataset, "SamplesPerPixel", path, default=1)
    count = whole_number(dataset, "NumberOfFrames", path, default=1)
    groups = items(dataset, "PerFrameFunctionalGroupsSequence", path)
    if samples != 1 or not kind.startswith("MONOCHROME"):
        problem = (
            f"holds an image of {kind or 'an unknown colour space'} with {samples} values per pixel, expected "
            "greyscale (MONOCHROME1 or MONOCHROME2); export a colour image as PNG."
        )
    elif 0 in size:
        problem = f"has an image of {size[0]}×{size[1]} pixels; copy or export the file again."
    elif value(dataset, "ModalityLUTSequence", path) is not None:
        problem = (
            "maps its values by a table (ModalityLUTSequence), expected RescaleSlope and RescaleIntercept; "
            "convert the series, e.g. with dcm2niix."
        )
    elif "MOSAIC" in text(dataset, "ImageType").split("\\"):
        problem = (
            "is a mosaic: all slices side by side in one image, expected an image for each; "
            "convert the series, e.g. with dcm2niix."
        )
    elif planes := nuclear_planes(dataset, path):
        return [_frame(dataset, path, index, size, holders) for index, holders in enumerate(planes)]
    elif not groups and count != 1:
        problem = (
            f"holds {count} frames without their positions (no PerFrameFunctionalGroupsSequence), expected an "
            "enhanced multi-frame file; export the series as single images or as NIfTI."
        )
    elif groups and len(groups) != count:
        problem = f"announces {count} frames and describes {len(groups)}; it is damaged: copy or export it again."
    else:
        shared = items(dataset, "SharedFunctionalGroupsSequence", path)[:1]
        return [_frame(dataset, path, index, size, [own, *shared]) for index, own in enumerate(groups or [dataset])]
    raise ValueError(f"{printable(path)} {problem}")


def nuclear_planes(dataset: Dataset, path: Path) -> list[list[Dataset]]:
    """Return the datasets that describe each frame of a reconstructed NM file: its position, its direction, the rest.

    Empty for other files.
    """
    kinds = text(dataset, "ImageType").split("\\")
    detectors = items(dataset, "DetectorInformationSequence", path)[:1]
    count = whole_number(dataset, "NumberOfFrames", path, default=1)
    if ("RECON TOMO" not in kinds and "RECON GATED TOMO" not in kinds) or not detectors or count == 1:
        return []
    if any(keyword not in detectors[0] for keyword in ("ImagePositionPatient", "ImageOrientationPatient")):
        return []
    position = np.array(numbers(detectors[0], "ImagePositionPatient", 3, path))
    row, column = _unit_vectors(numbers(detectors[0], "ImageOrientationPatient", 6, path), path)
    # Its sign is the direction of the stack.
    step = np.cross(row, column) * numbers(dataset, "SpacingBetweenSlices", 1, path)[0]
    slices = numbers(dataset, "SliceVector", count, path, default=range(1, count + 1))
    planes = []
    for index in slices:
        own = Dataset()
        own.ImagePositionPatient = (position + (index - 1) * step).tolist()
        planes.append([own, detectors[0], dataset])
    return planes


def what_differs(frames: list[Frame]) -> str:
    """Describe how images at one position differ, e.g. `EchoTime: 2.3, 4.6`; empty if no header shows it."""
    for keyword, group in _KINDS.items():
        found = set()
        for frame in frames:
            holders = items(frame.groups, group, frame.path) if group else [frame.dataset]
            found |= {text(holder, keyword) for holder in holders}
        if len(listed := sorted(found - {""})) > 1:
            return f"{keyword}: {', '.join(listed[:4])}{', …' if len(listed) > 4 else ''}"
    return ""


def _frame(dataset: Dataset, path: Path, index: int, size: tuple[int, int], holders: list[Dataset]) -> Frame:
    """Read one image's geometry; `holders` are its own and the shared functional groups, or the header."""

    def read(group: str, keyword: str, count: int, **options: Any) -> tuple[float, ...]:
        found = [item for holder in holders for item in items(holder, group, path)] or holders
        item = next((item for item in found if keyword in item), found[0])
        return numbers(item, keyword, count, path, **options)

    between_rows, between_columns = read("PixelMeasuresSequence", "PixelSpacing", 2, positive=True)
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
        groups=holders[0],
        index=index,
        size=size,
        position=np.array(read("PlanePositionSequence", "ImagePositionPatient", 3)),
        directions=_unit_vectors(read("PlaneOrientationSequence", "ImageOrientationPatient", 6), path),
        spacing=(between_columns, between_rows),
        slope=slope,
        intercept=read("PixelValueTransformationSequence", "RescaleIntercept", 1, default=(0.0,))[0],
        between=between,
        thickness=thickness,
    )


def _unit_vectors(directions: tuple[float, ...], path: Path) -> np.ndarray:
    """Return both directions with the rounding of the file corrected: unit length and a right angle, within 1 %."""
    row, column = np.array(directions[:3]), np.array(directions[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise ValueError(
            f"{printable(path)} has ImageOrientationPatient {list(directions)}, expected two unit vectors at a "
            "right angle; the file is damaged or was written wrongly: copy or export it again."
        )
    row = row / lengths[0]
    column = column - (row @ column) * row
    return np.array([row, column / np.linalg.norm(column)])
