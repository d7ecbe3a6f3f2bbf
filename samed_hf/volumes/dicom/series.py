"""DICOM series: found in folders, and read as volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from ..file_checks import check_memory, make_volume
from ..geometry import Volume
from .frames import Frame, frames_of
from .gdcm import GdcmDecoder
from .grid import Grid, arrange, refuse_differing
from .headers import is_dicom, quiet, read_file, text
from .pixels import stored_range, stored_values
from .search import SeriesFiles, find_series

__all__ = ["DicomSeries", "SeriesFiles", "find_series", "is_dicom", "read_series"]

_INT16 = np.iinfo(np.int16)
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """What a series' files say, kept for a segmentation that refers to them.

    Attributes:
        datasets: The files' headers without their pixels, in the order of the volume's last axis; a single one for a
            multi-frame file.
        series_uid: SeriesInstanceUID, empty where an anonymiser removed it.
        description: SeriesDescription.
        modality: E.g. "CT".
        notes: What the reader should know, e.g. "2 duplicated slices left out".
        frames: For each slice of the volume, its number in the multi-frame file, from 0; 0 for single-frame files.
    """

    datasets: tuple[Dataset, ...]
    series_uid: str
    description: str
    modality: str
    notes: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()


def read_series(files: Iterable[str | Path], path: str | Path) -> Volume:
    """Read the files of one DICOM series as a volume.

    Slices are ordered by their position along their normal, whatever the files' names and numbers. Identical
    duplicates are left out and noted. Values are rescaled, slice by slice; `PixelPaddingValue` stays as it is, and so
    do the values of a MONOCHROME1 image, which only says that low ones are to be shown bright (noted).

    Args:
        files: The series' files, in any order: single-frame, or enhanced multi-frame.
        path: The series' folder or file, for messages and the volume's `path`.

    Returns:
        Volume with `array` of shape `(columns, rows, slices)`: int16, or int32 where that is too narrow, as long as
        every slope and intercept is a whole number, else float32. The affine's last column is the true way from slice
        to slice, sheared where the gantry was tilted. `header` is a [`DicomSeries`].

    Raises:
        FileNotFoundError: A file does not exist, or there is none.
        ValueError: A file is damaged or isn't DICOM, the pixels are in colour or of an unknown compression, or the
            images make no regular grid: missing slices, several images at one place, mixed sizes or directions.
    """
    path = Path(path)
    paths = sorted({Path(file) for file in files})
    if not paths:
        raise FileNotFoundError(
            f"{printable(path)} holds no DICOM file, expected a series of at least one; check the path."
        )
    with quiet(), GdcmDecoder() as gdcm:
        frames = [frame for file in paths for frame in frames_of(read_file(file), file)]
        grid = arrange(frames, path)
        array = _read_pixels(grid, path, gdcm)
        header = _header(grid, len(frames))
    return make_volume(array, grid.affine, header, path)


def _read_pixels(grid: Grid, name: Path, gdcm: GdcmDecoder) -> np.ndarray:
    """The volume's array, `(columns, rows, slices)`, one slice decoded at a time."""
    columns, rows = grid.slices[0][0].size
    kind = _wide_enough([images[0] for images in grid.slices])
    # Most scans fit 16 bits whatever their headers say; the wider type is taken when a slice needs it.
    kept = np.dtype(np.int16) if kind == np.int32 else kind
    # Decoded before there is room for all: a damaged size would ask for the machine's whole memory.
    decoded = _decoded(grid, kind, name, gdcm)
    first = next(decoded)
    check_memory(name, len(grid.slices) * rows * columns * kept.itemsize)
    array = np.empty((len(grid.slices), rows, columns), dtype=kept)
    for index, image in enumerate(chain([first], decoded)):
        if array.dtype != kind and (image.min() < _INT16.min or image.max() > _INT16.max):
            array = array.astype(kind)
        array[index] = image
    return array.transpose(2, 1, 0)


def _wide_enough(frames: list[Frame]) -> np.dtype:
    """The narrowest type of the three that holds whatever the pixels hold, rescaled."""
    if not all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames):
        return np.dtype(np.float32)
    ends = [
        stored * frame.slope + frame.intercept for frame in frames for stored in stored_range(frame.dataset, frame.path)
    ]
    for limits in (_INT16, _INT32):
        if limits.min <= min(ends) and max(ends) <= limits.max:
            return np.dtype(limits.dtype)
    return np.dtype(np.float32)


def _decoded(grid: Grid, kind: np.dtype, name: Path, gdcm: GdcmDecoder) -> Iterator[np.ndarray]:
    """The slices in order, each `(rows, columns)` of the volume's type."""
    path: Path | None = None
    dataset = Dataset()
    for images in grid.slices:
        first: np.ndarray | None = None
        for frame in images:
            if frame.path != path:  # the frames of a file are consecutive, so each file is read once
                path, dataset = frame.path, read_file(frame.path, pixels=True)
            image = _rescaled(stored_values(dataset, frame.index, frame.path, gdcm), frame, kind)
            if first is None:
                first = image
                yield image
            elif not np.array_equal(first, image):
                raise refuse_differing(images, name)


def _rescaled(stored: np.ndarray, frame: Frame, kind: np.dtype) -> np.ndarray:
    if kind.kind == "i":
        return (stored.astype(kind) * kind.type(frame.slope) + kind.type(frame.intercept)).astype(kind, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        image = (stored * frame.slope + frame.intercept).astype(kind)
    if not np.isfinite(image).all():
        raise ValueError(
            f"{printable(frame.path)} holds values beyond all bounds once rescaled (RescaleSlope {frame.slope:g}, "
            f"RescaleIntercept {frame.intercept:g}); the file is damaged: copy or export it again."
        )
    return image


def _header(grid: Grid, num_images: int) -> DicomSeries:
    kept = [images[0] for images in grid.slices]
    first = kept[0].dataset
    notes = list(grid.notes)
    if duplicates := num_images - len(kept):
        notes.append(f"{duplicates} duplicated slice{'s' if duplicates > 1 else ''} left out")
    if any(text(frame.dataset, "PhotometricInterpretation") == "MONOCHROME1" for frame in kept):
        notes.append("MONOCHROME1: low values are meant to be shown bright; the values are as stored")
    datasets = {id(frame.dataset): frame.dataset for frame in kept}
    return DicomSeries(
        datasets=tuple(datasets.values()),
        series_uid=text(first, "SeriesInstanceUID"),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        notes=tuple(notes),
        frames=tuple(frame.index for frame in kept),
    )
