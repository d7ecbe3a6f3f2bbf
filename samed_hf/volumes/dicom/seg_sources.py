"""The source images of a DICOM segmentation: headers of a series without invalid values."""

from __future__ import annotations

import re
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM

from ...utils.text import printable
from .frames import frames_of
from .headers import is_usable_uid, text, value, whole_number
from .identity import derive_uid
from .series import DicomSeries

__all__ = ["image_source", "source_images"]

# Attributes of the patient and the study that the standard requires, empty if need be (type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_OPTIONAL = (
    *("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDescription", "PatientAge"),
    *("LongitudinalTemporalInformationModified", "LossyImageCompression"),
)
_DATES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}


def source_images(series: DicomSeries, path: Path) -> tuple[list[Dataset], list[hd.PlanePositionSequence]]:
    """Return a dataset for each slice of a series, or a single one for a multi-frame file, and each slice's position.

    A missing UID and several multi-frame files are errors.
    """
    is_multi_frame = any(
        whole_number(dataset, "NumberOfFrames", path, default=1) > 1 for dataset in series.datasets
    ) or any("PerFrameFunctionalGroupsSequence" in dataset for dataset in series.datasets)
    if is_multi_frame and len(series.datasets) > 1:
        raise ValueError(
            f"{printable(path)} consists of {len(series.datasets)} files including multi-frame ones, expected a single "
            "multi-frame file for a DICOM segmentation; write .nii.gz, .nrrd or .mha."
        )
    common = _common(series.datasets[0], path)
    frames = [frame for dataset in series.datasets for frame in frames_of(dataset, path)]
    first = frames[0]
    # One direction and spacing for all, as highdicom requires equal values.
    orientation = hd.PlaneOrientationSequence("PATIENT", _floats(first.directions.ravel()))
    measures = hd.PixelMeasuresSequence(first.spacing[::-1], first.thickness or first.between or 1.0)
    planes = [hd.PlanePositionSequence("PATIENT", _floats(frame.position)) for frame in frames]
    sources = []
    for header in series.datasets:
        source = Dataset()
        source.update(common)
        source.Columns, source.Rows = first.size
        source.SOPClassUID = _uid(header, "SOPClassUID", path)
        source.SOPInstanceUID = _uid(header, "SOPInstanceUID", path)
        sources.append(source)
    if is_multi_frame:
        # The frames that were read: others may be at the same positions. `renumber_frames` corrects the references.
        planes = [planes[index] for index in series.frames]
        sources[0].NumberOfFrames = len(planes)
        shared = Dataset()
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = orientation, measures
        sources[0].SharedFunctionalGroupsSequence = [shared]
        sources[0].PerFrameFunctionalGroupsSequence = [Dataset() for _ in planes]
        for group, plane in zip(sources[0].PerFrameFunctionalGroupsSequence, planes, strict=True):
            group.PlanePositionSequence = plane
        return sources, planes
    for source, plane in zip(sources, planes, strict=True):
        for sequence in (orientation, measures, plane):
            source.update(sequence[0])
    return sources, planes


def image_source(series: DicomSeries, path: Path) -> Dataset:
    """Return the header of a file of images without the geometry of a patient; a missing UID is an error."""
    header = series.datasets[0]
    source = _common(header, path)
    source.Columns, source.Rows = (whole_number(header, keyword, path) for keyword in ("Columns", "Rows"))
    source.SOPClassUID, source.SOPInstanceUID = (_uid(header, f"SOP{what}UID", path) for what in ("Class", "Instance"))
    # A reference to the only frame of a file has no number, which single-frame SOP classes must not have.
    if (count := whole_number(header, "NumberOfFrames", path, default=1)) > 1:
        source.NumberOfFrames = count
    if source.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if (found := value(header, keyword, path)) is not None:
                setattr(source, keyword, found)
    source.PatientOrientation = value(header, "PatientOrientation", path) or ""
    return source


def _common(first: Dataset, path: Path) -> Dataset:
    """Make a dataset of what all sources share."""
    common = Dataset()
    for keyword in (*_MAY_BE_EMPTY, *_OPTIONAL):
        found = _clean(first, keyword)
        if found or keyword in _MAY_BE_EMPTY:
            setattr(common, keyword, found)
    if common.PatientSex not in ("M", "F", "O"):
        common.PatientSex = ""
    if "DeidentificationMethodCodeSequence" in first:
        common.DeidentificationMethodCodeSequence = value(first, "DeidentificationMethodCodeSequence", path)
    common.StudyInstanceUID = _uid(first, "StudyInstanceUID", path)
    common.SeriesInstanceUID = _uid(first, "SeriesInstanceUID", path)
    reference = text(first, "FrameOfReferenceUID")
    common.FrameOfReferenceUID = (
        reference if re.fullmatch(r"[0-9.]{3,64}", reference) else derive_uid(common.SeriesInstanceUID, "frame")
    )
    common.PositionReferenceIndicator = text(first, "PositionReferenceIndicator")
    common.Modality = text(first, "Modality") or "OT"
    number = text(first, "SeriesNumber")
    common.SeriesNumber = int(number) if re.fullmatch(r"[0-9]{1,8}", number) else 0
    return common


def _uid(dataset: Dataset, keyword: str, path: Path) -> str:
    found = text(dataset, keyword)
    if not is_usable_uid(found):
        raise ValueError(
            f"{printable(path)} has no usable {keyword} ({found!r}), to which DICOM results have to refer; "
            "write .nii.gz, .nrrd or .mha, or anonymise the series so that its UIDs are replaced, not removed."
        )
    return found


def _clean(dataset: Dataset, keyword: str) -> str:
    """Return a value that the standard allows, else nothing."""
    try:
        found = dataset.get(keyword)
        found = "\\".join(map(str, found)) if isinstance(found, MultiValue) else str(found or "").strip()
        # Damaged headers hold bytes that end a file's text early, or not at all.
        found = found if found.isprintable() else ""
        return str(_DATES[keyword](found) or "") if keyword in _DATES else found
    except Exception:
        # pydicom decodes a value when it is accessed, and may fail in any way.
        return ""


def _floats(numbers: np.ndarray) -> tuple[float, ...]:
    # As many digits as a DICOM decimal string of 16 characters can hold.
    return tuple(float(f"{number:.10g}") for number in numbers + 0.0)
