"""NIfTI files, with their geometry kept.

Where a file's sform and qform differ the sform counts, as in nibabel; a file without either gets the voxel size and an
origin in the middle, the first axis running to the left, as in nibabel.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from ..utils.atomic import temporary_directory
from ..utils.text import one_line, printable
from ._checks import (
    NIFTI_SUFFIXES,
    arranged_shape,
    check_file,
    check_finite,
    check_memory,
    check_parent,
    damaged,
    made_volume,
    storable,
)
from .geometry import Volume

__all__ = ["find_volumes", "read_nifti", "write_nifti", "write_nifti_labels"]

# A file says in which unit its affine is: code 1 is metre, 3 is micrometre; "unknown" is taken for mm, as everywhere.
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_RGB = ("R", "G", "B")
_DEFLATE_RATIO = 1032  # how much smaller gzip makes zeros
_PART = 1 << 22  # voxels read at once


def read_nifti(path: str | Path, *, num_channels: int = 1) -> Volume:
    """Read a NIfTI file.

    Args:
        path: A `.nii` or `.nii.gz` file.
        num_channels: Images expected on the grid: as frames of a fourth axis, as vectors on the fifth, or as RGB.

    Returns:
        The volume, of shape `(x, y, z)` or `(x, y, z, num_channels)`; trailing axes of length 1 are dropped. `array` is
        float32, in the units of the file's scaling, or keeps the file's integer type where the file has no scaling.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or no NIfTI file, holds another number of frames, no real numbers, NaN or
            infinity, more than fits into memory, or its affine cannot be inverted.
    """
    path = Path(path)
    check_file(path, NIFTI_SUFFIXES, "NIfTI")
    packed = _suffix(path) == ".nii.gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        try:
            # No file holds more, whatever its header claims.
            image = _read_header(path, file, path.stat().st_size * (_DEFLATE_RATIO if packed else 1))
            array = _read_voxels(path, file, image, num_channels)
            # A compressed file is read to its end, for only there is its checksum: flipped bits are no anatomy.
            while packed and file.read(1 << 20):
                pass
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise damaged(path, "NIfTI", one_line(error)) from error
    check_finite(path, array)
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _mm_per_unit(image.header)
    return made_volume(array, affine, image.header, path)


def write_nifti(path: str | Path, volume: Volume) -> None:
    """Write a volume as NIfTI, in one step: the file is there whole or not at all.

    Args:
        path: A `.nii` or `.nii.gz` file in an existing folder; an older file is replaced.
        volume: The volume. Its values are stored unscaled, in its own type where NIfTI readers know it. With the
            `header` of a NIfTI file, the affine is stored as the header says: same sform and qform codes, same units.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is another one, or the values fit no type of NIfTI.
    """
    _write(Path(path), storable(volume.array), volume.affine, _copied_header(volume.header))


def write_nifti_labels(path: str | Path, labels: np.ndarray, like: Volume) -> None:
    """Write a label map on the grid of a scan, in one step.

    Args:
        path: A `.nii` or `.nii.gz` file in an existing folder; an older file is replaced.
        labels: Of the shape of the grid, uint8 or uint16.
        like: The scan, whose affine, sform and qform codes and units the file takes over.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is another one.
    """
    header = _copied_header(like.header)
    # The scan's window, e.g. -125 to 275 HU, would show every label in the same grey.
    header["cal_min"], header["cal_max"] = 0, int(labels.max())
    header.set_intent("label")
    _write(Path(path), labels, like.affine, header)


def find_volumes(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the NIfTI files among files and folders.

    Args:
        paths: Files, and folders whose own NIfTI files are taken (not those of their subfolders, nor hidden ones).

    Returns:
        Sorted paths, each once.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no NIfTI file.
        ValueError: If a file has another suffix.
    """
    found: set[Path] = set()
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            inside = [file for file in path.iterdir() if _suffix(file) and file.is_file() and file.name[0] != "."]
            if not inside:
                raise FileNotFoundError(
                    f"{printable(path)} holds no .nii or .nii.gz file, expected at least one; check the folder."
                )
            found.update(inside)
        else:
            check_file(path, NIFTI_SUFFIXES, "NIfTI")
            found.add(path)
    return sorted(found)


def _suffix(path: Path) -> str:
    """The NIfTI suffix of a path in lower case, empty when it has none."""
    return next((suffix for suffix in NIFTI_SUFFIXES if path.name.lower().endswith(suffix)), "")


def _read_header(path: Path, file: BinaryIO, most_bytes: int) -> nib.Nifti1Image:
    """An image without its voxels, at which the file then stands."""
    # The first field is the header's own length, in either byte order: 348 for NIfTI-1, 540 for NIfTI-2.
    start = file.read(4)
    is_nifti2 = 540 in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
    image_class = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    start += file.read(image_class.header_class.sizeof_hdr - 4)
    if len(start) < image_class.header_class.sizeof_hdr:
        raise damaged(path, "NIfTI", "it ends within its header")
    offset = float(image_class.header_class(start, check=False)["vox_offset"])
    if not len(start) + 4 <= offset <= most_bytes:
        raise damaged(path, "NIfTI", f"its voxels are said to begin at byte {offset:g}")
    start += file.read(int(offset) - len(start))
    try:
        with _quietly():
            image = image_class.from_bytes(start)
            claimed = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    except Exception as error:  # of a damaged header, nibabel raises whatever comes
        raise damaged(path, "NIfTI", one_line(error)) from error
    if offset + claimed > most_bytes:
        raise damaged(path, "NIfTI", f"its header claims {claimed} bytes of voxels, more than it holds")
    return image


def _read_voxels(path: Path, file: BinaryIO, image: nib.Nifti1Image, num_channels: int) -> np.ndarray:
    stored, shape = image.get_data_dtype(), image.shape
    is_rgb = stored.names == _RGB and num_channels == len(_RGB)
    if is_rgb:
        stored, shape = stored["R"], (*shape, len(_RGB))
    target = arranged_shape(path, shape, num_channels)
    if stored.kind not in "iuf":
        raise ValueError(
            f"{printable(path)} holds values of type {stored}, expected real numbers; export the scan in greyscale."
        )
    slope, inter = image.dataobj.slope, image.dataobj.inter
    scaled = (slope, inter) != (1.0, 0.0)
    dtype = np.dtype(np.float32) if scaled or stored.kind == "f" else stored.newbyteorder("=")
    count = int(np.prod(target))
    check_memory(path, count * dtype.itemsize)
    array = np.empty(count, dtype)
    for first in range(0, count, _PART):
        part = array[first : first + _PART]
        data = file.read(part.size * stored.itemsize)
        if len(data) < part.size * stored.itemsize:
            raise damaged(path, "NIfTI", f"it ends {(count - first) * stored.itemsize - len(data)} bytes too early")
        values = np.frombuffer(data, stored)
        with np.errstate(all="ignore"):  # what grows beyond float32 is told as infinity
            part[:] = values * float(slope) + float(inter) if scaled else values
    # The colours of a voxel lie side by side, unlike those of any other image.
    return np.moveaxis(array.reshape(3, *target[:3], order="F"), 0, -1) if is_rgb else array.reshape(target, order="F")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep nibabel from telling on stderr what it mended in a header."""
    logger = nib.imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _mm_per_unit(header: nib.Nifti1Header) -> float:
    # Read as bits: nibabel's own reading fails on codes that the standard does not know.
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _copied_header(header: object) -> nib.Nifti1Header:
    if isinstance(header, nib.Nifti1Header):
        return header.copy()
    new = nib.Nifti1Header()
    new.set_xyzt_units("mm")
    if header is not None:
        # Another format's position is that of the scanner.
        new["sform_code"] = new["qform_code"] = 1
    return new


def _write(path: Path, array: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header) -> None:
    if not _suffix(path):
        raise ValueError(f"{printable(path)} is no NIfTI file by its name, expected .nii or .nii.gz; rename it.")
    affine = affine.copy()
    affine[:3] /= _mm_per_unit(header)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    if not np.allclose(affine, header.get_best_affine()):
        # The header is new, or of another grid: both of its matrices follow, under the codes it has.
        header.set_sform(affine, code=int(header["sform_code"]) or "aligned")
        header.set_qform(affine, code=int(header["qform_code"]))
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # Left to nibabel, the matrices of the header are not touched as long as the affine is the header's own.
    image = image_class(array, header.get_best_affine(), header)
    check_parent(path)
    with temporary_directory(path.parent) as folder:
        # nibabel chooses format and compression by the suffix.
        nib.save(image, folder / f"volume{_suffix(path)}")
        (folder / f"volume{_suffix(path)}").replace(path)
