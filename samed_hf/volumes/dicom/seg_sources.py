"""What a DICOM segmentation takes over from the files that it refers to, odd values left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from ...utils.text import printable
from .frames import Frame, frames_of
from .headers import text, value
from .series import DicomSeries

__all__ = ["Sources", "source_images"]

# Attributes of the patient and the study that the standard wants to be there, empty if need be (type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_OPTIONAL = (
    *("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDescription", "PatientAge"),
    *("LongitudinalTemporalInformationModified", "LossyImageCompression"),
)
_DATES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
# Without these nothing can be referred to (type 1).
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class Sources(NamedTuple):
    """What highdicom is given as the source of a segmentation.

    Attributes:
        datasets: A dataset for each slice, or a single one for a multi-frame file.
        positions: Each slice's ImagePositionPatient.
        is_multi_frame: Which of the two.
    """

    datasets: list[Dataset]
    positions: list[tuple[float, ...]]
    is_multi_frame: bool


def source_images(series: DicomSeries, path: Path) -> Sources:
    """Make clean datasets of a series' headers.

    Args:
        series: The series, as it was read.
        path: Its folder or file, for messages.

    Raises:
        ValueError: An UID is missing, or the series consists of several multi-frame files.
    """
    first = series.datasets[0]
    frames_by_file = [frames_of(dataset, path) for dataset in series.datasets]
    is_multi_frame = "PerFrameFunctionalGroupsSequence" in first
    if is_multi_frame and len(series.datasets) > 1:
        raise ValueError(
            f"{printable(path)} consists of {len(series.datasets)} multi-frame files, expected one for a DICOM "
            "segmentation; write .nii.gz, .nrrd or .mha."
        )
    common = _common(first, path)
    if is_multi_frame:
        frames = [frames_by_file[0][index] for index in series.frames]
        datasets = [_multi_frame(common, frames_by_file[0], path)]
    else:
        frames = [frames[0] for frames in frames_by_file]
        datasets = [_single_frame(common, frame, frames[0], path) for frame in frames]
    return Sources(datasets, [_floats(frame.position) for frame in frames], is_multi_frame)


def _common(first: Dataset, path: Path) -> Dataset:
    """What all sources share."""
    common = Dataset()
    for keyword in _MAY_BE_EMPTY:
        setattr(common, keyword, _clean(first, keyword))
    for keyword in _OPTIONAL:
        if found := _clean(first, keyword):
            setattr(common, keyword, found)
    if common.PatientSex not in ("M", "F", "O"):
        common.PatientSex = ""
    if "DeidentificationMethodCodeSequence" in first:
        common.DeidentificationMethodCodeSequence = value(first, "DeidentificationMethodCodeSequence", path)
    common.StudyInstanceUID = _uid(first, "StudyInstanceUID", path)
    common.SeriesInstanceUID = _uid(first, "SeriesInstanceUID", path)
    reference = text(first, "FrameOfReferenceUID")
    common.FrameOfReferenceUID = reference if re.fullmatch(r"[0-9.]{3,64}", reference) else generate_uid(prefix=None)
    common.PositionReferenceIndicator = text(first, "PositionReferenceIndicator")
    common.Modality = text(first, "Modality") or "OT"
    number = text(first, "SeriesNumber")
    common.SeriesNumber = int(number) if number.isascii() and number.isdecimal() and len(number) < 9 else 0
    return common


def _single_frame(common: Dataset, frame: Frame, first: Frame, path: Path) -> Dataset:
    dataset = _with_identity(common, frame.dataset, path)
    dataset.Columns, dataset.Rows = first.size
    # One direction and spacing for all, for highdicom knows no rounding.
    dataset.ImageOrientationPatient = _orientation(first)
    dataset.ImagePositionPatient = list(_floats(frame.position))
    dataset.PixelSpacing = [first.spacing[1], first.spacing[0]]
    dataset.SliceThickness = _thickness(first)
    return dataset


def _multi_frame(common: Dataset, frames: list[Frame], path: Path) -> Dataset:
    first = frames[0]
    dataset = _with_identity(common, first.dataset, path)
    dataset.Columns, dataset.Rows = first.size
    dataset.NumberOfFrames = len(frames)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _orientation(first)
    measures.PixelSpacing = [first.spacing[1], first.spacing[0]]
    measures.SliceThickness = _thickness(first)
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in frames:
        own, position = Dataset(), Dataset()
        position.ImagePositionPatient = list(_floats(frame.position))
        own.PlanePositionSequence = [position]
        groups.append(own)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset


def _with_identity(common: Dataset, source: Dataset, path: Path) -> Dataset:
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPClassUID = _uid(source, "SOPClassUID", path)
    dataset.SOPInstanceUID = _uid(source, "SOPInstanceUID", path)
    return dataset


def _uid(dataset: Dataset, keyword: str, path: Path) -> str:
    found = text(dataset, keyword)
    # Leading zeros are against the standard and in use.
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", found) or len(found) > 64:
        raise ValueError(
            f"{printable(path)} has no usable {keyword} ({found!r}), to which a DICOM segmentation has to refer; "
            "write .nii.gz, .nrrd or .mha, or anonymise the series so that its UIDs are replaced, not removed."
        )
    return found


def _clean(dataset: Dataset, keyword: str) -> str:
    """A value as it stands, where the standard allows it; else nothing."""
    try:
        found = dataset.get(keyword)
        found = "" if found is None else str(found).strip()
        # Damaged headers hold bytes that end a file's text early, or not at all.
        found = found if found.isprintable() else ""
        return str(_DATES[keyword](found) or "") if keyword in _DATES else found
    except Exception:
        # pydicom decodes what it read only now, and may fail in any way.
        return ""


def _orientation(frame: Frame) -> list[float]:
    return [*_floats(frame.along_row), *_floats(frame.along_column)]


def _floats(numbers: np.ndarray) -> tuple[float, ...]:
    # As many digits as a DICOM decimal string of 16 characters can hold.
    return tuple(float(f"{number:.10g}") for number in numbers + 0.0)


def _thickness(frame: Frame) -> float:
    return frame.thickness or frame.between or 1.0
