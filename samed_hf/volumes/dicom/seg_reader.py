"""DICOM segmentations (SEG) as labels: frames placed on the grid of the series that they refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from ..geometry import Volume
from ..limits import InputLimits
from .headers import brief, numbers, text, whole_number
from .label_objects import LabelObject, Voxels, check_frame_of_reference, item_name, items, slice_indices, to_indices

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
        name = item_name(segment, "SegmentLabel") or f"segment {number}"
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
    return LabelObject(path, "SEG", uids, frozenset(images - {""}), names, tuple(notes))


def seg_voxels(
    dataset: Dataset, path: Path, scan: Volume, names: Mapping[int, str], notes: list[str]
) -> Iterator[tuple[int, Voxels]]:
    """Yield the voxels of each segment, frame by frame, by the frames' positions or, without one, their source."""
    columns, rows = (whole_number(dataset, keyword, path) for keyword in ("Columns", "Rows"))
    InputLimits.local().check(path, side=max(columns, rows), pixels=columns * rows)
    check_frame_of_reference(scan, text(dataset, "FrameOfReferenceUID"), f"{printable(path)} is")
    kind = text(dataset, "SegmentationType")
    half = whole_number(dataset, "MaximumFractionalValue", path) / 2 if kind == "FRACTIONAL" else 0.5
    try:
        segmentation = hd.seg.segread(path, lazy_frame_retrieval=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    slices = slice_indices(scan)
    for index, groups in enumerate(_frames(dataset, path)):
        number = None if kind == "LABELMAP" else _segment_of(groups, path)
        if number is not None and number not in names:
            continue
        try:
            frame = segmentation.get_stored_frame(index + 1).T
        except Exception as error:
            raise _unreadable(path, error) from error
        grid = _place(groups, (columns, rows), scan, slices, f"Frame {index + 1} of {printable(path)}", path)
        for one in np.unique(frame[frame != 0]).tolist() if number is None else [number]:
            if one in names:
                pixels = np.argwhere(frame == one if number is None else frame >= half)
                voxels = grid[0] + pixels @ grid[1:]
                if ((voxels < 0) | (voxels >= scan.grid)).any():
                    raise ValueError(
                        f"Frame {index + 1} of {printable(path)} labels voxels outside of the series "
                        f"{printable(scan.path or '')}: expected a segmentation of it; resample or remove it."
                    )
                yield one, tuple(voxels.T)


def _place(
    groups: list[Dataset], size: tuple[int, int], scan: Volume, slices: Mapping[str, int], what: str, path: Path
) -> np.ndarray:
    """Return the voxel of a frame's first pixel, and the steps to its next column and its next row: int, `(3, 3)`."""
    positions = _items(groups, "PlanePositionSequence", path)
    if not positions:
        sources = [slices.get(text(image, "ReferencedSOPInstanceUID")) for image in _sources(groups, path)]
        if len(sources) != 1 or sources[0] is None or size != scan.grid[:2]:
            raise ValueError(f"{what} has neither a position nor a single source image: export the segmentation again.")
        return np.array([[0, 0, sources[0]], [1, 0, 0], [0, 1, 0]])
    start = np.array([numbers(positions[0], "ImagePositionPatient", 3, path)])
    orientation, measures = (
        (_items(groups, sequence, path) or [Dataset()])[0]
        for sequence in ("PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    directions = np.reshape(numbers(orientation, "ImageOrientationPatient", 6, path), (2, 3))
    spacing = numbers(measures, "PixelSpacing", 2, path, positive=True)
    steps = to_indices(scan, directions * np.reshape(spacing[::-1], (2, 1)), vectors=True)
    exact = np.concatenate([to_indices(scan, start), steps])
    grid = np.round(exact).astype(int)
    ends = np.array([[1, column, row] for column in (0, size[0] - 1) for row in (0, size[1] - 1)])
    is_on_grid = np.abs(ends @ (exact - grid)).max() <= _OFF
    if not is_on_grid or not (np.abs(grid[1:]).sum(axis=1) == 1).all() or grid[1] @ grid[2]:
        raise ValueError(
            f"{what} lies between the voxels of {printable(scan.path or 'the scan')}: expected the grid of the series; "
            "resample the segmentation onto it, order 0."
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


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be read as a DICOM segmentation ({brief(error) or type(error).__name__}); "
        "export it again."
    )
