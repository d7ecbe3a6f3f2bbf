"""DICOM segmentations (SEG) as labels: frames placed on the grid of the series that they refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from ..file_checks import check_memory
from ..geometry import Volume
from ..limits import InputLimits
from .headers import brief, items, numbers, text, whole_number
from .label_objects import LabelObject, Voxels, check_frame_of_reference, item_name, to_indices

__all__ = ["describe_segmentation", "seg_voxels"]

_OFF = 0.25  # of a voxel: most that a frame may be off the series' grid


def describe_segmentation(dataset: Dataset, path: Path) -> LabelObject:
    """Describe a segmentation: its segments with frames, and the images that it refers to."""
    is_label_map = text(dataset, "SegmentationType") == "LABELMAP"
    frames = _frames(dataset, path)
    drawn = set() if is_label_map else {_segment_of(groups, path) for groups in frames}
    names, notes = {}, []
    for segment in items(dataset, "SegmentSequence", path):
        number = whole_number(segment, "SegmentNumber", path)
        name = item_name(segment, "SegmentLabel", path) or f"segment {number}"
        if number == 0:  # the background of a label map
            continue
        if is_label_map or number in drawn:
            names[number] = name
        else:
            notes.append(f"{name!r} has no frame")
    if text(dataset, "SegmentationType") == "FRACTIONAL":
        notes.append("fractional: voxels of at least 0.5 belong to their segment")
    holders = [dataset, *items(dataset, "StudiesContainingOtherReferencedInstancesSequence", path)]
    series = [one for holder in holders for one in items(holder, "ReferencedSeriesSequence", path)]
    images = {
        text(image, "ReferencedSOPInstanceUID")
        for one in series
        for image in items(one, "ReferencedInstanceSequence", path)
    }
    images |= {text(image, "ReferencedSOPInstanceUID") for groups in frames for image in _sources(groups, path)}
    uids = tuple(filter(None, (text(one, "SeriesInstanceUID") for one in series)))
    who, what = text(dataset, "PatientID"), text(dataset, "SeriesDescription")
    return LabelObject(path, "SEG", who, what, uids, frozenset(images - {""}), names, tuple(notes))


def seg_voxels(
    dataset: Dataset, path: Path, scan: Volume, names: Mapping[int, str], notes: list[str]
) -> Iterator[tuple[int, Voxels]]:
    """Yield the voxels of each segment, frame by frame, by the frames' positions."""
    columns, rows = (whole_number(dataset, keyword, path) for keyword in ("Columns", "Rows"))
    InputLimits.local().check(path, side=max(columns, rows), pixels=columns * rows)
    check_frame_of_reference(scan, text(dataset, "FrameOfReferenceUID"), f"{printable(path)} is")
    kind = text(dataset, "SegmentationType")
    half = whole_number(dataset, "MaximumFractionalValue", path) / 2 if kind == "FRACTIONAL" else 0.5
    frames = _frames(dataset, path)
    steps = [_place(groups, (columns, rows), scan, path) for groups in frames]
    segments = [None if kind == "LABELMAP" else _segment_of(groups, path) for groups in frames]
    wanted = [index for index, number in enumerate(segments) if number is None or number in names]
    for index, frame in zip(wanted, _decoded(path, wanted), strict=True):
        number = segments[index]
        for one in np.unique(frame[frame != 0]).tolist() if number is None else [number]:
            if one in names:
                pixels = np.nonzero(frame == one if number is None else frame >= half)
                yield one, _voxels(pixels, steps[index], scan, path)


def _decoded(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield the stored values of frames, `(columns, rows)`."""
    check_memory(path, path.stat().st_size)
    try:
        segmentation = hd.seg.segread(path)  # not lazily: highdicom prints tracebacks of damaged files then
        for index in frames:
            yield segmentation.get_stored_frame(index + 1).T
    except Exception as error:  # highdicom raises many errors
        raise ValueError(
            f"{printable(path)} cannot be read as a DICOM segmentation ({brief(error) or type(error).__name__}); "
            "export it again."
        ) from error


def _voxels(pixels: tuple[np.ndarray, ...], steps: np.ndarray, scan: Volume, path: Path) -> Voxels:
    """Return the voxels of a frame's pixels, of which none may be outside of the series."""
    x, y, z = (steps[0, axis] + pixels[0] * steps[1, axis] + pixels[1] * steps[2, axis] for axis in range(3))
    if any(((one < 0) | (one >= length)).any() for one, length in zip((x, y, z), scan.grid, strict=True)):
        raise ValueError(
            f"{printable(path)} labels voxels outside of the series {printable(scan.path or '')}: expected a "
            "segmentation of it; resample or remove it."
        )
    return x, y, z


def _place(groups: list[Dataset], size: tuple[int, int], scan: Volume, path: Path) -> np.ndarray:
    """Return the voxel of a frame's first pixel, and the steps to its next column and its next row: int, `(3, 3)`."""
    position, orientation, measures = (
        (_items(groups, sequence, path) or [Dataset()])[0]
        for sequence in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    start = np.array([numbers(position, "ImagePositionPatient", 3, path)])
    directions = np.reshape(numbers(orientation, "ImageOrientationPatient", 6, path), (2, 3))
    between_rows, between_columns = numbers(measures, "PixelSpacing", 2, path, positive=True)
    steps = to_indices(scan, directions * [[between_columns], [between_rows]], vectors=True)
    exact = np.concatenate([to_indices(scan, start), steps])
    grid = np.round(exact).astype(int)
    ends = np.array([[1, column, row] for column in (0, size[0] - 1) for row in (0, size[1] - 1)])
    is_on_grid = np.abs(ends @ (exact - grid)).max() <= _OFF
    if not is_on_grid or not (np.abs(grid[1:]).sum(axis=1) == 1).all() or grid[1] @ grid[2]:
        raise ValueError(
            f"{printable(path)} has a frame between the voxels of {printable(scan.path or 'the scan')}: expected the "
            "grid of the series; resample the segmentation onto it, order 0."
        )
    return grid


def _frames(dataset: Dataset, path: Path) -> list[list[Dataset]]:
    """Return the functional groups of each frame, its own and the shared ones."""
    count = whole_number(dataset, "NumberOfFrames", path, default=1)
    own = items(dataset, "PerFrameFunctionalGroupsSequence", path)
    if count != len(own):
        raise ValueError(
            f"{printable(path)} has {count} frames and describes {len(own)}: expected a segmentation of slices, each "
            "frame with its functional groups; export it again."
        )
    shared = items(dataset, "SharedFunctionalGroupsSequence", path)[:1]
    return [[one, *shared] for one in own]


def _items(groups: list[Dataset], sequence: str, path: Path) -> list[Dataset]:
    return [item for holder in groups for item in items(holder, sequence, path)]


def _segment_of(groups: list[Dataset], path: Path) -> int:
    found = _items(groups, "SegmentIdentificationSequence", path) or [Dataset()]
    return whole_number(found[0], "ReferencedSegmentNumber", path)


def _sources(groups: list[Dataset], path: Path) -> list[Dataset]:
    """Return the references to the images of a frame."""
    derivations = _items(groups, "DerivationImageSequence", path)
    return [image for one in derivations for image in items(one, "SourceImageSequence", path)]
