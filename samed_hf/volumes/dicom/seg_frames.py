"""The frames of a DICOM segmentation of images that have no geometry of a patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage

from .headers import text

__all__ = ["refer_to_frames", "renumber_frames", "single_image"]


def single_image(source: Dataset) -> Dataset:
    """Return a stand-in for a file of any kind and number of frames: highdicom supports a single image only."""
    single = deepcopy(source)
    single.SOPClassUID = SecondaryCaptureImageStorage
    for keyword in ("NumberOfFrames", "FrameOfReferenceUID", "PositionReferenceIndicator"):
        single.pop(keyword, None)
    return single


def refer_to_frames(segmentation: hd.seg.Segmentation, frames: np.ndarray, source: Dataset) -> None:
    """Replace the frames of a segmentation of [`single_image`] by those of all frames of the source.

    Args:
        segmentation: Its segments, and one frame at least.
        frames: `(frames, rows, columns)`, the number of a segment or 0.
        source: The header of the file; without NumberOfFrames, it holds one.
    """
    count = len(segmentation.SegmentSequence)
    # In the order of the segments, as the others.
    pairs = [(number, index) for number in range(1, count + 1) for index in _frames_with(frames, number)]
    pairs = pairs or [(number, 0) for number in range(1, count + 1)]
    is_single = "NumberOfFrames" not in source
    if not is_single:
        _add_dimension(segmentation)
    template = segmentation.PerFrameFunctionalGroupsSequence[0]
    segmentation.PerFrameFunctionalGroupsSequence = [
        _groups(template, number, None if is_single else index, count) for number, index in pairs
    ]
    for references in _references(segmentation):
        references.ReferencedSOPClassUID = source.SOPClassUID
    segmentation.NumberOfFrames = len(pairs)
    segmentation.PixelData = b"".join(_packed(frames, pairs))
    segmentation.PixelData += b"\0" * (len(segmentation.PixelData) % 2)
    orientation = text(source, "PatientOrientation")  # required where no position states it, may be empty
    segmentation.PatientOrientation = orientation.split("\\") if orientation else ""


def renumber_frames(segmentation: hd.seg.Segmentation, indices: Sequence[int]) -> None:
    """Correct the references to a multi-frame file of which the frames `indices`, from 0, are the slices."""
    # The frames of several segments share an item.
    references = {
        id(reference): reference
        for groups in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in groups.DerivationImageSequence
        for reference in derivation.SourceImageSequence
    }
    for reference in references.values():
        reference.ReferencedFrameNumber = indices[reference.ReferencedFrameNumber - 1] + 1


def _frames_with(frames: np.ndarray, number: int) -> list[int]:
    return [index for index, frame in enumerate(frames) if (frame == number).any()]


def _add_dimension(segmentation: hd.seg.Segmentation) -> None:
    """Index the frames of a cine by their number, too."""
    index = deepcopy(segmentation.DimensionIndexSequence[0])
    index.DimensionIndexPointer, index.FunctionalGroupPointer = (
        Tag("TemporalPositionIndex"),
        Tag("FrameContentSequence"),
    )
    index.DimensionDescriptionLabel = "Temporal Position Index"
    segmentation.DimensionIndexSequence.append(index)


def _groups(template: Dataset, number: int, index: int | None, count: int) -> Dataset:
    """Make the functional groups of a frame: segment `number` in frame `index` of a cine."""
    groups = deepcopy(template)
    content = groups.FrameContentSequence[0]
    content.DimensionIndexValues = [number] if index is None else [number, index + 1]
    if count > 1:  # else it is among the shared ones
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    if index is not None:
        content.TemporalPositionIndex = index + 1
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = index + 1
    return groups


def _references(segmentation: hd.seg.Segmentation) -> Iterator[Dataset]:
    yield from segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    yield from segmentation.get("SourceImageSequence", ())
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        yield from groups.DerivationImageSequence[0].SourceImageSequence


def _packed(frames: np.ndarray, pairs: list[tuple[int, int]]) -> Iterator[bytes]:
    # The bits of eight frames are whole bytes, whatever their size.
    for start in range(0, len(pairs), 8):
        masks = [frames[index] == number for number, index in pairs[start : start + 8]]
        yield np.packbits(np.concatenate(masks, axis=None), bitorder="little").tobytes()
