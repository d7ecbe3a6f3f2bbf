"""DICOM series, read as volumes."""

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
from ..limits import InputLimits
from .frames import Frame, frames_of
from .grid import Grid, arrange, differing_images_error
from .headers import quiet, read_file, text
from .pixels import GdcmDecoder, stored_range, stored_values

__all__ = ["DicomSeries", "read_series"]

_INT16 = np.iinfo(np.int16)
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """Headers of a series, kept for a segmentation that refers to them."""

    datasets: tuple[Dataset, ...]  # without pixels, in the order of the slices; a single one for a multi-frame file
    series_uid: str  # SeriesInstanceUID, empty if an anonymiser removed it
    description: str
    modality: str  # e.g. "CT"
    notes: tuple[str, ...] = ()  # for the user, e.g. "2 duplicated slices left out"
    frames: tuple[int, ...] = ()  # of each slice its index in the multi-frame file; 0 for single-frame files


def read_series(files: Iterable[str | Path], path: str | Path, limits: InputLimits | None = None) -> Volume:
    """Read the files of one DICOM series as a volume.

    Slices are ordered by their position along their normal; names and numbers are ignored. Identical duplicates are
    left out and noted. Values are rescaled, slice by slice, including `PixelPaddingValue`. The values of a MONOCHROME1
    image, whose low values are meant to be shown bright, are not inverted (noted).

    Args:
        files: The series' files, in any order: single-frame, or enhanced multi-frame.
        path: The series' directory or file, for messages and `Volume.path`.
        limits: The largest series to read; `InputLimits.local()` by default.

    Returns:
        Volume with `array` of shape `(columns, rows, slices)`: int16, or int32 if that is too narrow, if every slope
        and intercept is a whole number, else float32. The last column of the affine is the vector from slice to slice,
        sheared if the gantry was tilted. `header` is a [`DicomSeries`].

    Raises:
        FileNotFoundError: If a file does not exist, or there is none.
        ValueError: If a file is damaged or not DICOM, the pixels are in colour or of an unknown compression, or the
            images form no regular grid: missing slices, several images at one position, mixed sizes or directions.
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
        (limits or InputLimits.local()).check_slices(path, (len(grid.slices), *frames[0].size))
        array = _read_pixels(grid, path, gdcm)
        header = _header(grid, len(frames))
    return make_volume(array, grid.affine, header, path)


def _read_pixels(grid: Grid, name: Path, gdcm: GdcmDecoder) -> np.ndarray:
    """Return the volume's array, `(columns, rows, slices)`, decoding one slice at a time."""
    columns, rows = grid.slices[0][0].size
    widest = _widest_dtype([images[0] for images in grid.slices])
    # Most scans fit 16 bits whatever their headers say; the wider type is used once a slice requires it.
    dtype = np.dtype(np.int16) if widest == np.int32 else widest
    # The first slice is decoded before memory is allocated for all, as a damaged size could exceed the memory.
    decoded = _decoded(grid, widest, name, gdcm)
    first = next(decoded)
    check_memory(name, len(grid.slices) * rows * columns * dtype.itemsize)
    array = np.empty((len(grid.slices), rows, columns), dtype=dtype)
    for index, image in enumerate(chain([first], decoded)):
        if array.dtype != widest and (image.min() < _INT16.min or image.max() > _INT16.max):
            array = array.astype(widest)
        array[index] = image
    return array.transpose(2, 1, 0)


def _widest_dtype(frames: list[Frame]) -> np.dtype:
    """Return the narrowest of int16, int32 and float32 that holds any rescaled pixel."""
    if all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames):
        ends = [
            stored * frame.slope + frame.intercept
            for frame in frames
            for stored in stored_range(frame.dataset, frame.path)
        ]
        for limits in (_INT16, _INT32):
            if limits.min <= min(ends) and max(ends) <= limits.max:
                return np.dtype(limits.dtype)
    return np.dtype(np.float32)


def _decoded(grid: Grid, dtype: np.dtype, name: Path, gdcm: GdcmDecoder) -> Iterator[np.ndarray]:
    """Yield the slices in order, each `(rows, columns)`."""
    path: Path | None = None
    dataset = Dataset()
    for images in grid.slices:
        first: np.ndarray | None = None
        for frame in images:
            if frame.path != path:  # the frames of a file are consecutive, so each file is read once
                path, dataset = frame.path, read_file(frame.path, pixels=True)
            image = _rescaled(stored_values(dataset, frame.index, frame.path, gdcm), frame, dtype)
            if first is None:
                first = image
                yield image
            elif not np.array_equal(first, image):
                raise differing_images_error(images, name)


def _rescaled(stored: np.ndarray, frame: Frame, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "i":
        return (stored.astype(dtype) * dtype.type(frame.slope) + dtype.type(frame.intercept)).astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        image = (stored * frame.slope + frame.intercept).astype(dtype)
    if not np.isfinite(image).all():
        raise ValueError(
            f"{printable(frame.path)} holds values that overflow once rescaled (RescaleSlope {frame.slope:g}, "
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
    return DicomSeries(
        datasets=tuple({id(frame.dataset): frame.dataset for frame in kept}.values()),
        series_uid=text(first, "SeriesInstanceUID"),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        notes=tuple(notes),
        frames=tuple(frame.index for frame in kept),
    )
