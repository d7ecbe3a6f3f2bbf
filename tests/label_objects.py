"""Structure sets and segmentations as planning systems and archives write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RTStructureSetStorage

from .dicom_files import _item, save, uid


def write_structures(
    path: Path,
    regions: dict[str, Sequence[tuple]],
    *,
    series: str | None = "one",
    study: str = "study",
    frame: str | None = None,
    change=None,
) -> Path:
    """Write a structure set: of each region its contours, `(points in mm, LPS+[, type[, slice that it refers to]])`."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, uid(path.name)
    dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        "RTSTRUCT",
        uid(study),
        uid(path.name, "series"),
    )
    frame_uid = uid(study, "frame of reference") if frame is None else frame
    if series is not None:
        one = _item(SeriesInstanceUID=uid(study, series))
        own = _item(RTReferencedSeriesSequence=[one])
        dataset.ReferencedFrameOfReferenceSequence = [
            _item(FrameOfReferenceUID=frame_uid, RTReferencedStudySequence=[own])
        ]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        dataset.StructureSetROISequence.append(
            _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame_uid)
        )
        found = []
        for points, *rest in contours:
            kind = rest[0] if rest else "CLOSED_PLANAR"
            points = np.asarray(points, float)
            data = [f"{x:.5f}" for x in points.ravel()]
            contour = _item(ContourGeometricType=kind, NumberOfContourPoints=len(points), ContourData=data)
            if len(rest) > 1:
                contour.ContourImageSequence = [_item(ReferencedSOPInstanceUID=uid(study, series or "one", rest[1]))]
            found.append(contour)
        item = _item(ReferencedROINumber=number)
        if found:
            item.ContourSequence = found
        dataset.ROIContourSequence.append(item)
    if change is not None:
        change(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path)


def write_segments(
    path: Path, files: Sequence[Path], masks: np.ndarray, kind: str, names: Sequence[str], **options
) -> Path:
    """Write a segmentation by highdicom: of "BINARY" or "FRACTIONAL" masks `(slices, rows, columns, segments)`, or
    label maps `(slices, rows, columns)` if it is a "LABELMAP"."""
    segments = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(names, 1)
    ]
    dataset = hd.seg.Segmentation(
        [pydicom.dcmread(file) for file in files],
        masks,
        kind,
        segments,
        uid(path.name),
        900,
        uid(path.name, "instance"),
        1,
        "maker",
        "model",
        "1",
        "serial",
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path
