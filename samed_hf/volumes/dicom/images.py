"""Images without the geometry of a patient in DICOM: projections, photographs, ultrasound and screenshots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from ...utils.text import printable
from ..file_checks import check_finite, check_memory
from ..images import luminance
from ..limits import InputLimits
from .display import describe_window, display_header, display_values, has_window
from .frames import nuclear_planes
from .gdcm import GdcmDecoder
from .headers import items, numbers, quiet, read_file, text, value, whole_number
from .kept_headers import read_header
from .kinds import is_image_class
from .pixels import num_samples, stored_bits, stored_values

__all__ = ["SIGNED_NOTE", "DicomImages", "image_colour", "is_projection", "may_be_images", "read_images"]

# By the names of SOP classes: slices of a patient, which are incomplete without a position, and radiographs,
# angiograms, fluoroscopy and photographs, which are images whatever position their headers state.
_SLICES = re.compile(r"\b(CT|MR|PET|Positron)\b")
_PROJECTIONS = re.compile(
    "Computed Radiography|Digital|X-Ray (Angiographic|Radiofluoroscopic)|RT Image|VL |Ophthalmic Photography"
)
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_CENTIMETRES = "3"  # PhysicalUnitsXDirection of ultrasound
SIGNED_NOTE = "its JPEG 2000 values are signed, its header (PixelRepresentation 0) says unsigned: read as signed"


class DicomImages(NamedTuple):
    """The frames of a file as they are displayed."""

    array: np.ndarray  # (columns, rows, frames) or (columns, rows, frames, 3), uint8 or uint16
    affine: np.ndarray  # (4, 4), of the pixels' size, or of 1 mm
    is_calibrated: bool  # whether the file states the size of a pixel in the patient
    notes: tuple[str, ...]


def is_projection(dataset: Dataset, path: Path) -> bool:
    """Whether a file holds images without the geometry of a patient, which are read by [`read_images`]."""
    if _is_colour(dataset, path) or _PROJECTIONS.match(UID(text(dataset, "SOPClassUID")).name):
        return True
    if "PerFrameFunctionalGroupsSequence" in dataset:
        groups = [*items(dataset, _GROUPS[0], path)[:1], *items(dataset, _GROUPS[1], path)]
        has_position = any("PlanePositionSequence" in group for group in groups)
    else:
        is_single = whole_number(dataset, "NumberOfFrames", path, default=1) == 1
        has_position = (is_single and "ImagePositionPatient" in dataset) or bool(nuclear_planes(dataset, path))
    return may_be_images(dataset) and not has_position


def image_colour(path: Path) -> str:
    """Return "grey" or "colour" for a file of images without positions; empty for others and damaged ones."""
    try:
        with quiet():
            header = read_header(path)
            return ("colour" if _is_colour(header, path) else "grey") if is_projection(header, path) else ""
    except (ValueError, OSError):
        return ""


def may_be_images(dataset: Dataset) -> bool:
    """Whether a file that forms no volume is read as images: not if it holds slices, or no images at all."""
    kind = text(dataset, "SOPClassUID")
    return is_image_class(kind) is not False and not _SLICES.search(UID(kind).name)


def read_images(
    dataset: Dataset, path: Path, limits: InputLimits, gdcm: GdcmDecoder, num_channels: int | None = None
) -> DicomImages:
    """Read the frames of a file of [`is_projection`], whose header is known, for a number of channels or as stored."""
    _check_tiles(dataset, path)
    count = whole_number(dataset, "NumberOfFrames", path, default=1) or 1
    rows, columns = whole_number(dataset, "Rows", path), whole_number(dataset, "Columns", path)
    limits.check_slices(path, (count, rows, columns))
    samples, allocated = num_samples(dataset, path), whole_number(dataset, "BitsAllocated", path)
    limits.check(path, voxels=count * rows * columns, bytes=count * rows * columns * samples * allocated // 8)
    dataset = read_file(path, pixels=True)
    stored = stored_values(dataset, 0, path, gdcm)
    bounds = _bounds(dataset, stored, path, gdcm)

    def frame(index: int) -> np.ndarray:
        pixels = stored if index == 0 else stored_values(dataset, index, path, gdcm)
        check_finite(path, pixels)
        return _with_channels(display_values(pixels, display_header(dataset, index, path), bounds, path), num_channels)

    first = frame(0)  # before memory is allocated for all, as a damaged header could exceed it
    check_memory(path, first.nbytes * count)
    array = np.empty((count, *first.shape), first.dtype)
    array[0] = first
    for index in range(1, count):
        array[index] = frame(index)
    size, note = _pixel_size(dataset, path)
    affine = np.diag([-size[0], -size[1], 1.0, 1.0]) if size else np.diag([-1.0, -1.0, 1.0, 1.0])
    notes = (note, *_display_notes(dataset, stored, bounds, path))
    return DicomImages(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), affine, size is not None, notes)


def _is_colour(dataset: Dataset, path: Path) -> bool:
    return num_samples(dataset, path) == 3 or text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"


def _check_tiles(dataset: Dataset, path: Path) -> None:
    """Refuse a slide cut into tiles; its label and its overview are images."""
    tiled = text(dataset, "DimensionOrganizationType").startswith("TILED")
    total = text(dataset, "TotalPixelMatrixColumns"), text(dataset, "TotalPixelMatrixRows")
    if (tiled or any(total)) and total != (text(dataset, "Columns"), text(dataset, "Rows")):
        raise ValueError(
            f"{printable(path)} is a slide of microscopy of {total[0]}×{total[1]} pixels, cut into tiles (whole-slide "
            "image), expected one image; export a region or a level as PNG or TIFF, e.g. with QuPath."
        )


def _bounds(dataset: Dataset, first: np.ndarray, path: Path, gdcm: GdcmDecoder) -> tuple[float, float]:
    """Return the stored values that are black and white in an image without a window.

    They are the ends of the stored bits, or of fewer bits if the values need less than half of them: many headers
    state 16 bits of images of 10 or 12. Signed and floating point values have no such ends, but their own.
    """
    bits, kind = stored_bits(dataset, path), first.dtype.kind
    ends = (0, (1 << bits) - 1) if kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    header = display_header(dataset, 0, path)
    is_certain = _is_colour(dataset, path) or has_window(header) or "ModalityLUTSequence" in header
    if is_certain or (kind == "u" and bits <= 8):
        return ends
    low, high = float(first.min()), float(first.max())
    for index in range(1, whole_number(dataset, "NumberOfFrames", path, default=1)):
        image = stored_values(dataset, index, path, gdcm)
        low, high = min(low, float(image.min())), max(high, float(image.max()))
    if kind != "u":
        return low, high
    needed = max(8, int(high).bit_length())
    return (0, (1 << needed) - 1) if needed < bits - 1 else ends


def _with_channels(image: np.ndarray, num_channels: int | None) -> np.ndarray:
    if num_channels == 1 and image.ndim == 3:
        return luminance(np.moveaxis(image, 2, 0))
    return np.repeat(image[:, :, None], 3, axis=2) if num_channels == 3 and image.ndim == 2 else image


def _display_notes(dataset: Dataset, stored: np.ndarray, bounds: tuple[float, float], path: Path) -> Iterator[str]:
    header = display_header(dataset, 0, path)
    if stored.dtype.kind == "i" and not value(dataset, "PixelRepresentation", path):
        yield SIGNED_NOTE
    if not _is_colour(dataset, path):
        yield describe_window(header) or f"it has no window: {bounds[0]:g} is black, {bounds[1]:g} is white"
    if header.PhotometricInterpretation == "MONOCHROME1":
        yield "MONOCHROME1: inverted, so that high values are bright"
    ratio = text(dataset, "PixelAspectRatio").split("\\")
    if len(set(ratio)) > 1:
        yield f"its pixels are not square: PixelAspectRatio {' to '.join(ratio)}, height to width"


def _pixel_size(dataset: Dataset, path: Path) -> tuple[tuple[float, ...] | None, str]:
    """Return the width and height of a pixel in the patient, in mm, or `None`; and a note where they come from."""
    regions = items(dataset, "SequenceOfUltrasoundRegions", path)
    # Not those of an ECG or of graphics; M-modes and spectra have no size.
    sizes = {_region_size(one, path) for one in regions if text(one, "RegionSpatialFormat") in ("", "1", "2", "3")}
    if regions and (size := sizes.pop() if len(sizes) == 1 else ()):
        return size, f"pixels of {_times(size)} mm by its ultrasound region"
    if regions:
        return None, f"sizes are in pixels: {len(regions)} ultrasound regions, expected images of one scale in cm"
    header = display_header(dataset, 0, path)
    spacing = _positive(header, "PixelSpacing", 2, path)
    detector = {
        keyword: found
        for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing")
        if (found := _positive(dataset, keyword, 2, path))
    }
    if spacing and ("PixelSpacingCalibrationType" in header or spacing not in detector.values()):
        return spacing, f"pixels of {_times(spacing)} mm by PixelSpacing"
    where = [f"{keyword} {_times(found)} mm is not the patient's" for keyword, found in detector.items()]
    return None, f"sizes are in pixels: {where[0] if where else 'it states no size of a pixel'}"


def _region_size(region: Dataset, path: Path) -> tuple[float, ...]:
    """Return the width and height of a pixel in an ultrasound region in mm; nothing if it is no image."""
    units = [text(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
    deltas = [_positive(region, f"PhysicalDelta{axis}", 1, path) for axis in "XY"]
    is_image = text(region, "RegionSpatialFormat") in ("", "1") and units == [_CENTIMETRES] * 2 and all(deltas)
    return (10 * deltas[0][0], 10 * deltas[1][0]) if is_image else ()


def _positive(dataset: Dataset, keyword: str, count: int, path: Path) -> tuple[float, ...]:
    """Return the sizes of an element, width first; nothing if they are missing or impossible."""
    try:
        found = tuple(abs(number) for number in numbers(dataset, keyword, count, path))
    except ValueError:
        return ()
    return found[::-1] if min(found) > 0 else ()


def _times(size: tuple[float, ...]) -> str:
    return "×".join(f"{number:.4g}" for number in size)
