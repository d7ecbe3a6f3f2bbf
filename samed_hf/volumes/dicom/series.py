"""DICOM series, read as volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ...utils.text import printable
from ..file_checks import check_memory, make_volume
from ..geometry import Volume
from ..limits import InputLimits
from .frames import Frame, frames_of
from .gdcm import GdcmDecoder
from .grid import Grid, arrange, differing_images_error
from .headers import quiet, read_file, text, value
from .images import SIGNED_NOTE, is_projection, may_be_images, read_images
from .kept_headers import read_header
from .phases import divide_frames
from .pixels import stored_range, stored_values

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


def read_series(
    files: Iterable[str | Path],
    path: str | Path,
    limits: InputLimits | None = None,
    *,
    num_channels: int | None = None,
    frame: int | None = None,
) -> Volume:
    """Read the files of one DICOM series as a volume, or a file without positions in the patient as images.

    Slices are ordered by their position along their normal; names and numbers are ignored. Identical duplicates are
    left out and noted. Values are rescaled, slice by slice, including `PixelPaddingValue`. The values of a MONOCHROME1
    image, whose low values are meant to be shown bright, are not inverted (noted).

    Images are X-rays, ultrasound, photographs and others without positions, and all in colour. They have no unit, and
    are read as they are displayed: palettes and colour spaces become RGB, tables and the first window are applied, and
    MONOCHROME1 is inverted. The affine has the size of a pixel where the file states it in the patient, which
    ImagerPixelSpacing is not.

    Args:
        files: The series' files, in any order: single-frame, or enhanced multi-frame.
        path: The series' directory or file, for messages and `Volume.path`.
        limits: The largest series to read; `InputLimits.local()` by default.
        num_channels: Of images: 1 converts colours to grey (ITU-R 601), 3 repeats grey; by default as stored.
        frame: Of several images at each position, as of time points or echoes, those of one of [`frame_names`], from 0.

    Returns:
        Volume with `array` of shape `(columns, rows, slices)`: int16, or int32 if that is too narrow, if every slope
        and intercept is a whole number, else float32. The last column of the affine is the vector from slice to slice,
        sheared if the gantry was tilted. `header` is a [`DicomSeries`]. Images are `(columns, rows, frames)` or
        `(columns, rows, frames, 3)`, uint8, or uint16 of the whole range if they have more than 8 bits.

    Raises:
        FileNotFoundError: If a file does not exist, or there is none.
        ValueError: If a file is damaged or not DICOM, the pixels are a video, tiles of a slide or of an unknown
            compression, or the images form no regular grid: missing slices, several images at one position, mixed sizes
            or directions, several files of images.
    """
    path = Path(path)
    paths = sorted({Path(file) for file in files})
    if not paths:
        raise FileNotFoundError(
            f"{printable(path)} holds no DICOM file, expected a series of at least one; check the path."
        )
    limits = limits or InputLimits.local()
    with quiet(), GdcmDecoder() as gdcm:
        headers = [read_header(file, limits=limits) for file in paths]
        if all(map(is_projection, headers, paths)):
            return _read_images(headers, paths, path, limits, gdcm, num_channels)
        try:
            frames = [frame for header, file in zip(headers, paths, strict=True) for frame in frames_of(header, file)]
            frames, names = (frames, []) if frame is None else _chosen(frames, frame, path)
            grid = arrange(frames, path)
        except ValueError:
            if len(paths) > 1 or not may_be_images(headers[0]):
                raise
            note = "its positions form no volume: its frames are read as images"
            return _read_images(headers, paths, path, limits, gdcm, num_channels, note)
        limits.check_slices(path, (len(grid.slices), *frames[0].size))
        array, notes = _read_pixels(grid, path, gdcm)
        header = _header(grid, len(frames), [*names, *notes])
    return make_volume(array, grid.affine, header, path)


def _chosen(frames: list[Frame], frame: int, path: Path) -> tuple[list[Frame], list[str]]:
    """Return the images of a frame, and a note on the frames."""
    parts = divide_frames(frames)
    if not 0 <= frame < len(parts):
        raise ValueError(f"{printable(path)} has {len(parts)} frames, expected one of 0 to {len(parts) - 1}: {frame}.")
    named = [f"{index} {name}" for index, name in enumerate(parts)]
    listed = ", ".join(named[:8]) + (", …" if len(named) > 8 else "")
    return list(parts.values())[frame], [f"its frames: {listed}"] if len(parts) > 1 else []


def _read_images(
    headers: list[Dataset],
    files: list[Path],
    path: Path,
    limits: InputLimits,
    gdcm: GdcmDecoder,
    num_channels: int | None,
    *notes: str,
) -> Volume:
    if len(files) > 1:
        raise ValueError(
            f"{printable(path)} holds {len(files)} images in colour or without positions in the patient, e.g. "
            f"{printable(files[0].name)} and {printable(files[1].name)}, expected one: each is a scan of its own; name "
            "one file."
        )
    images = read_images(headers[0], files[0], limits, gdcm, num_channels)
    header = _describe(headers, tuple(range(images.array.shape[2])), [*notes, *images.notes])
    volume = make_volume(images.array, images.affine, header, path)
    return replace(volume, is_image=True, is_calibrated=images.is_calibrated)


def _read_pixels(grid: Grid, name: Path, gdcm: GdcmDecoder) -> tuple[np.ndarray, set[str]]:
    """Return the volume's array, `(columns, rows, slices)`, decoding one slice at a time, and notes."""
    notes: set[str] = set()
    columns, rows = grid.slices[0][0].size
    widest = _widest_dtype([images[0] for images in grid.slices])
    # Most scans fit 16 bits whatever their headers say; the wider type is used once a slice requires it.
    dtype = np.dtype(np.int16) if widest == np.int32 else widest
    # The first slice is decoded before memory is allocated for all, as a damaged size could exceed the memory.
    decoded = _decoded(grid, widest, name, gdcm, notes)
    first = next(decoded)
    check_memory(name, len(grid.slices) * rows * columns * dtype.itemsize)
    array = np.empty((len(grid.slices), rows, columns), dtype=dtype)
    for index, image in enumerate(chain([first], decoded)):
        if array.dtype != widest and (image.min() < _INT16.min or image.max() > _INT16.max):
            array = array.astype(widest)
        array[index] = image
    return array.transpose(2, 1, 0), notes


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


def _decoded(grid: Grid, dtype: np.dtype, name: Path, gdcm: GdcmDecoder, notes: set[str]) -> Iterator[np.ndarray]:
    """Yield the slices in order, each `(rows, columns)`, and add to the notes what is odd about them."""
    path: Path | None = None
    dataset = Dataset()
    for images in grid.slices:
        first: np.ndarray | None = None
        for frame in images:
            if frame.path != path:  # the frames of a file are consecutive, so each file is read once
                path, dataset = frame.path, read_file(frame.path, pixels=True)
            stored = stored_values(dataset, frame.index, frame.path, gdcm)
            if stored.dtype.kind == "i" and not value(frame.dataset, "PixelRepresentation", frame.path):
                notes.add(SIGNED_NOTE)
            image = _rescaled(stored, frame, dtype)
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


def _header(grid: Grid, num_images: int, more_notes: list[str]) -> DicomSeries:
    kept = [images[0] for images in grid.slices]
    notes = [*grid.notes, *more_notes]
    if duplicates := num_images - len(kept):
        notes.append(f"{duplicates} duplicated slice{'s' if duplicates > 1 else ''} left out")
    if any(text(frame.dataset, "PhotometricInterpretation") == "MONOCHROME1" for frame in kept):
        notes.append("MONOCHROME1: low values are meant to be shown bright; the values are as stored")
    datasets = list({id(frame.dataset): frame.dataset for frame in kept}.values())
    return _describe(datasets, tuple(frame.index for frame in kept), notes)


def _describe(datasets: list[Dataset], frames: tuple[int, ...], notes: list[str]) -> DicomSeries:
    return DicomSeries(
        datasets=tuple(datasets),
        series_uid=text(datasets[0], "SeriesInstanceUID"),
        description=text(datasets[0], "SeriesDescription"),
        modality=text(datasets[0], "Modality"),
        notes=tuple(notes),
        frames=frames,
    )
