"""NIfTI files with their geometry.

As in nibabel, the sform takes precedence over the qform; a file without either gets an affine of its voxel sizes with
the origin in the centre and the first axis running to the left.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from ..utils.atomic import temporary_directory
from ..utils.text import one_line, printable
from . import file_checks
from .frames import Frames, Layout, choose_frames, color_layout, convert_colors, split_shape
from .geometry import Volume
from .limits import InputLimits
from .registry import suffix_of

__all__ = ["find_volumes", "read_nifti", "read_nifti_frames", "write_nifti", "write_nifti_labels"]

_SUFFIXES = (".nii.gz", ".nii")
# Codes 1 and 3 are metre and micrometre; unknown units are mm by convention. nibabel's own method fails on other codes.
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_RGB = ("R", "G", "B")
_BLOCK = 1 << 22  # voxels read at once
_MAX_HEADER = 1 << 26  # bytes, with its extensions
_SILENT = logging.Logger("nibabel", logging.CRITICAL)  # nibabel logs what it repaired in a header


def read_nifti(path: Path, *, num_channels: int = 1, limits: InputLimits | None = None) -> Volume:
    """Read a NIfTI file of one frame of `num_channels` images: on the fourth axis, vectors on the fifth, or RGB.

    `array` is float32, scaled by the header's slope and intercept, or has the file's integer type if the file has no
    scaling; trailing axes of length 1 are dropped.
    """
    return read_nifti_frames(path, num_channels=num_channels, limits=limits).only(path)


def read_nifti_frames(
    path: Path, *, num_channels: int = 1, limits: InputLimits | None = None, frames: Sequence[int] | None = None
) -> Frames:
    """[`read_nifti`] for the frames of a fourth axis, or some of them; one frame is in memory at a time."""
    file_checks.check_file(path, "nifti")
    limits = limits or InputLimits.local()
    with _opened(path) as file:
        ratio = file_checks.DEFLATE_RATIO if isinstance(file, gzip.GzipFile) else 1
        header = _read_header(path, file, path.stat().st_size * ratio, limits)
        stored, shape = header.get_data_dtype(), header.get_data_shape()
        if stored.names and stored.names[:3] == _RGB and num_channels in (1, 3):
            layout, stored = color_layout(path, shape, len(stored.names), num_channels), stored["R"]
        else:
            layout = split_shape(path, shape, num_channels)
        start = file.tell()
    if stored.kind not in "iuf":
        raise ValueError(
            f"{printable(path)} has values of type {stored}, expected real numbers; export the scan in greyscale."
        )
    indices = choose_frames(path, layout.frames, frames)
    return Frames(layout.frames, indices, _read_frames(path, header, layout, start, indices, limits))


def _read_frames(
    path: Path,
    header: nib.Nifti1Header,
    layout: Layout,
    start: int,
    indices: Sequence[int],
    limits: InputLimits,
) -> Iterator[Volume]:
    size = math.prod(layout.shape)
    # Except for colours, the channels of a frame are not beside each other in the file.
    is_together = bool(header.get_data_dtype().names) or 1 in (layout.channels, layout.frames)
    at_once = size if is_together else size * layout.frames
    whole: np.ndarray | None = None
    with _opened(path) as file:
        for index in indices:
            if whole is None or at_once == size:
                file.seek(start + (index * size if at_once == size else 0) * _stored_type(header).itemsize)
                whole = _read_voxels(path, file, header, at_once)
            # The checksum, which detects flipped bits, is at the end of a compressed file.
            while index == indices[-1] and isinstance(file, gzip.GzipFile) and file.read(1 << 20):
                limits.check(path, bytes=file.tell())
            array, notes = _arrange(whole, header, layout, index)
            file_checks.check_finite(path, array)
            yield _make_volume(path, array, header, notes)


def _arrange(
    values: np.ndarray, header: nib.Nifti1Header, layout: Layout, index: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array of a frame among the values that were read, in the order of the file, and notes."""
    if header.get_data_dtype().names:  # the colours are the first axis of the file
        return convert_colors(np.moveaxis(values.reshape(layout.channels, *layout.grid, order="F"), 0, -1), layout)
    if values.size == math.prod(layout.shape):
        return values.reshape(layout.shape, order="F"), ()
    return values.reshape((*layout.grid, layout.frames, layout.channels), order="F")[:, :, :, index], ()


def _make_volume(path: Path, array: np.ndarray, header: nib.Nifti1Header, notes: tuple[str, ...]) -> Volume:
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    if array.shape[2] == 1 and not affine[:3, 2].any():  # one slice, without a thickness
        affine[:3, 2] = np.cross(*(affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)).T)
        notes += (file_checks.NO_THICKNESS.format(1),)
    elif len(header.get_data_shape()) == 2:
        notes += (file_checks.NO_THICKNESS.format(np.linalg.norm(affine[:3, 2])),)
    return file_checks.make_volume(array, affine, header, path, notes)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI, atomically.

    The values are stored unscaled, in their own type where NIfTI readers know it. If the volume has a NIfTI header, the
    affine keeps its sform and qform codes and units.
    """
    _write(path, file_checks.storable(volume.array), volume.affine, _copy_header(volume.header))


def write_nifti_labels(path: Path, labels: np.ndarray, like: Volume, *, names: object, colors: object) -> None:
    """Write a label map, uint8 or uint16, with the codes and units of the scan; `names` and `colors` are not stored."""
    header = _copy_header(like.header)
    # The display range of the scan, e.g. -125 to 275 HU, would show every label in the same grey.
    header["cal_min"], header["cal_max"] = 0, int(labels.max())
    header.set_intent("label")
    _write(path, labels, like.affine, header)


def find_volumes(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the NIfTI files among files and directories, sorted, each once.

    Of a directory, its own files without subdirectories and hidden files are listed; none is a `FileNotFoundError`.
    """
    found: set[Path] = set()
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            visible = (file for file in path.iterdir() if file.name[0] != ".")
            own = [file for file in visible if suffix_of(file) in _SUFFIXES and file.is_file()]
            if not own:
                raise FileNotFoundError(
                    f"{printable(path)} holds no .nii or .nii.gz file, expected at least one; check the directory."
                )
            found.update(own)
        else:
            file_checks.check_file(path, "nifti")
            found.add(path)
    return sorted(found)


def _read_header(path: Path, file: io.BufferedIOBase, max_bytes: int, limits: InputLimits) -> nib.Nifti1Header:
    """Read the header with its extensions, and leave the file at the voxels."""
    # The first field is the header's own length, in either byte order: 348 for NIfTI-1, 540 for NIfTI-2.
    content = file.read(4)
    is_nifti2 = 540 in (int.from_bytes(content, "little"), int.from_bytes(content, "big"))
    header_class = nib.Nifti2Header if is_nifti2 else nib.Nifti1Header
    content += file.read(header_class.sizeof_hdr - 4)
    if len(content) < header_class.sizeof_hdr:
        raise file_checks.damaged_file_error(path, "it ends within its header")
    offset = float(header_class(content, check=False)["vox_offset"])
    if not len(content) + 4 <= offset <= min(max_bytes, _MAX_HEADER):
        raise file_checks.damaged_file_error(path, f"its header claims that its voxels begin at byte {offset:g}")
    content += file.read(int(offset) - len(content))
    try:
        with np.errstate(all="ignore"):
            header = header_class.from_fileobj(io.BytesIO(content), check=False)
            header.check_fix(_SILENT)
            header.get_best_affine()  # raises errors, as does the next line
            header.get_slope_inter()
            num_bytes = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    except Exception as error:  # nibabel raises errors of many types for a damaged header
        raise file_checks.damaged_file_error(path, one_line(error)) from error
    if offset + num_bytes > max_bytes:
        raise file_checks.damaged_file_error(path, f"its header claims {num_bytes} bytes of voxels, more than it holds")
    limits.check(path, bytes=int(offset) + num_bytes)
    limits.check_shape(path, header.get_data_shape())
    return header


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, decompressed; an error of the compression is one line that names the file."""
    with gzip.open(path) if suffix_of(path) == ".nii.gz" else path.open("rb") as file:
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise file_checks.damaged_file_error(path, one_line(error)) from error


def _stored_type(header: nib.Nifti1Header) -> np.dtype:
    stored = header.get_data_dtype()
    return stored["R"] if stored.names else stored


def _read_voxels(path: Path, file: io.BufferedIOBase, header: nib.Nifti1Header, count: int) -> np.ndarray:
    """Read values at the place of the file, scaled as the header states."""
    stored = _stored_type(header)
    slope, inter = header.get_slope_inter()  # None, None without scaling
    scaled = slope is not None and (slope, inter) != (1.0, 0.0)
    dtype = np.dtype(np.float32) if scaled or stored.kind == "f" else stored.newbyteorder("=")
    file_checks.check_memory(path, count * dtype.itemsize)
    array = np.empty(count, dtype)
    for first in range(0, count, _BLOCK):
        block = array[first : first + _BLOCK]
        data = file.read(block.size * stored.itemsize)
        if len(data) < block.size * stored.itemsize:
            missing = (count - first) * stored.itemsize - len(data)
            raise file_checks.damaged_file_error(path, f"it ends {missing} bytes too early")
        values = np.frombuffer(data, stored)
        with np.errstate(all="ignore"):  # overflow gives infinity, which file_checks.check_finite refuses
            block[:] = values * slope + inter if scaled else values
    return array


def _copy_header(header: object) -> nib.Nifti1Header:
    if isinstance(header, nib.Nifti1Header):
        return header.copy()
    new = nib.Nifti1Header()
    new.set_xyzt_units("mm")
    if header is not None:
        new["sform_code"] = new["qform_code"] = 1  # other formats store scanner coordinates
    return new


def _write(path: Path, array: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header) -> None:
    suffix = suffix_of(path)
    if suffix not in _SUFFIXES:
        raise ValueError(f"{printable(path)} has another suffix than .nii or .nii.gz; rename it.")
    if len(header.get_data_shape()) == 2 and array.shape[2:] == (1,):  # as the file of the scan
        array = array[:, :, 0]
    affine = affine.copy()
    affine[:3] /= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    if not np.allclose(affine, header.get_best_affine()):
        # The header is new, or of another grid: update both matrices and keep their codes.
        header.set_sform(affine, code=int(header["sform_code"]) or "aligned")
        header.set_qform(affine, code=int(header["qform_code"]))
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # nibabel leaves the matrices of the header unchanged as long as the affine equals the header's.
    image = image_class(array, header.get_best_affine(), header)
    file_checks.check_parent(path)
    with temporary_directory(path.parent) as directory:
        temporary = directory / f"volume{suffix}"
        nib.save(image, temporary)
        temporary.replace(path)
