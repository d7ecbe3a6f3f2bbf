"""Label maps as structure sets (RTSTRUCT) that refer to their source series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from ...utils.atomic import write_bytes
from ...utils.text import printable
from ..file_checks import check_labels
from ..geometry import Volume
from .contours import trace_contours
from .headers import quiet
from .identity import encode_derived
from .seg_sources import source_images
from .seg_writer import VERSION, check_arguments, short_text

__all__ = ["write_rtstruct"]

_LPS = np.array([-1.0, -1.0, 1.0])
_OF_IMAGES = ("ImageType", "SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient")
_STUDY = "1.2.840.10008.3.1.2.3.1"  # the class that structure sets state for a study, although it is retired


def write_rtstruct(
    path: str | Path,
    array: np.ndarray,
    like: Volume,
    names: Mapping[int, str],
    colors: np.ndarray | None = None,
    *,
    algorithm: str = "samed_hf",
) -> None:
    """Write a label map as a DICOM structure set, atomically; see [`write_segmentation`] for arguments and errors.

    A region is written for each label that occurs; if none does, every label of `names` gets one without contours.
    Contours pass in the middle between the centres of pixels inside and outside; holes are joined to their outer
    contour by a channel without width (keyhole), which every reader knows.
    """
    path, array = Path(path), check_labels(array, like)
    labels = check_arguments(path, array, like, names) or sorted(label for label in names if label)
    if like.is_image:
        raise ValueError(
            f"{printable(like.path or 'the image')} has no positions, which contours need; write .dcm or .png."
        )
    with quiet():
        sources, _ = source_images(like.header, like.path or Path())
        references = _references(sources, like)
        dataset = _header(sources[0], references, algorithm)
        for number, label in enumerate(labels, 1):
            region = _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=sources[0].FrameOfReferenceUID,
                ROIName=short_text(str(names[label])) or f"label {number}",
                ROIGenerationAlgorithm="AUTOMATIC",
            )
            contour = _item(ReferencedROINumber=number)
            if colors is not None and label < len(colors):
                contour.ROIDisplayColor = [round(255 * float(part)) for part in colors[label]]
            if contours := _contours(array, label, like, references):
                contour.ContourSequence = contours
            kind = _item(
                ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter=""
            )
            dataset.StructureSetROISequence.append(region)
            dataset.ROIContourSequence.append(contour)
            dataset.RTROIObservationsSequence.append(kind)
        content = encode_derived(dataset, like.header.datasets[0], enforce_file_format=True)
    write_bytes(path, content)


def _references(sources: list[Dataset], like: Volume) -> list[Dataset]:
    """Return a reference to the image of each slice."""
    is_multi_frame = len(sources) < like.grid[2]
    images = sources * like.grid[2] if is_multi_frame else sources
    references = [
        _item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in images
    ]
    for reference, frame in zip(references, like.header.frames if is_multi_frame else (), strict=False):
        reference.ReferencedFrameNumber = frame + 1
    return references


def _header(source: Dataset, references: list[Dataset], algorithm: str) -> Dataset:
    """Make a structure set without regions."""
    dataset = Dataset()
    for element in source:
        if element.tag.group in (0x0008, 0x0010, 0x0012, 0x0020) and element.keyword not in _OF_IMAGES:
            dataset.add(element)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit VR limits a contour to 64 KiB
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "RTSTRUCT", 1000 + int(source.SeriesNumber), 1
    dataset.SeriesDescription, dataset.OperatorsName = "samed_hf structures", ""
    dataset.Manufacturer = dataset.ManufacturerModelName = dataset.DeviceSerialNumber = "samed_hf"
    dataset.SoftwareVersions = VERSION
    dataset.StructureSetLabel, dataset.StructureSetName = "samed_hf", short_text(f"Segmentation by {algorithm}")
    dataset.StructureSetDate = dataset.StructureSetTime = ""  # the source's
    dataset.ApprovalStatus = "UNAPPROVED"
    series = _item(SeriesInstanceUID=source.SeriesInstanceUID, ContourImageSequence=references)
    study = _item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=source.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = _item(FrameOfReferenceUID=source.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    return dataset


def _contours(array: np.ndarray, label: int, like: Volume, references: list[Dataset]) -> list[Dataset]:
    """Return the contours of a label, in mm with four decimals."""
    found = []
    for index in range(array.shape[2]):
        for points in trace_contours(array[:, :, index] == label):
            voxels = np.column_stack([points, np.full(len(points), index)])
            positions = (voxels @ like.affine[:3, :3].T + like.affine[:3, 3]) * _LPS
            contour = _item(ContourImageSequence=[references[index]], ContourGeometricType="CLOSED_PLANAR")
            contour.NumberOfContourPoints = len(points)
            data = "\\".join(f"{number:.4f}" for number in (positions + 0.0).ravel())
            # pydicom's conversion of each number would take most of the time.
            contour.add(DataElement("ContourData", "DS", data, already_converted=True))
            found.append(contour)
    return found


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, found in values.items():
        setattr(item, keyword, found)
    return item
