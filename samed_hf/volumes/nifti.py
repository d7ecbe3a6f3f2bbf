"""Medical volumes: reading and writing NIfTI files with their geometry kept."""

from __future__ import annotations

import gzip
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from .geometry import Volume

__all__ = ["case_name", "find_volumes", "read_volume", "write_labels", "write_volume"]

_SUFFIXES = (".nii.gz", ".nii")
# A file says in which unit its affine is: code 1 is metre, 3 is micrometre; "unknown" is taken for mm, as everywhere.
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI file.

    Args:
        path: A `.nii` or `.nii.gz` file with one 3-D image; trailing axes of length 1 are dropped.

    Returns:
        The volume. `array` is float32, in the units of the file's scaling, or keeps the file's integer type where the
        file has no scaling.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or no NIfTI file, holds several frames, no real numbers, NaN or infinity, or
            its affine cannot be inverted.
    """
    path = Path(path)
    image = _read_image(path)
    shape = image.shape
    if len(shape) < 3 or any(length != 1 for length in shape[3:]) or 0 in shape:
        raise ValueError(
            f"{path} holds an image of shape {shape}, expected one 3-D volume; save the frame you want by itself."
        )
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ValueError(f"{path} holds values of type {dtype}, expected real numbers; export the scan in greyscale.")
    try:
        # Asked of the data: nibabel wipes the scaling from the header while loading.
        if dtype.kind == "f" or (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0):
            array = image.get_fdata(dtype=np.float32, caching="unchanged")
        else:
            array = np.asarray(image.dataobj.get_unscaled(), dtype=dtype.newbyteorder("="))
    except (OSError, ValueError, HeaderDataError) as error:
        raise _damaged(path, error) from error
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise ValueError(
            f"{path} holds NaN or infinity in {array.size - np.count_nonzero(finite)} of {array.size} voxels, "
            "expected finite values; replace them, e.g. with numpy.nan_to_num."
        )
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _mm_per_unit(image.header)
    try:
        return Volume(array.reshape(shape[:3]), affine, image.header, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume as NIfTI, in one step: the file is there whole or not at all.

    Args:
        path: A `.nii` or `.nii.gz` file in an existing folder; an older file is replaced.
        volume: The volume. Its values are stored unscaled, in its own type where NIfTI readers know it. With a
            `header`, the affine is stored as the header says: same sform and qform codes, same units.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is another one, or the values fit no type of NIfTI.
    """
    _write(Path(path), _storable(volume.array), volume.affine, _copied_header(volume.header))


def write_labels(path: str | Path, array: np.ndarray, like: Volume) -> None:
    """Write a label map on the grid of a scan, in one step: the file is there whole or not at all.

    Args:
        path: A `.nii` or `.nii.gz` file in an existing folder; an older file is replaced.
        array: Integer label map of shape `(x, y, z)`, values in [0, 65535]; stored as uint8 where they
            fit, else as uint16.
        like: The scan, whose affine, sform and qform codes and units the file takes over.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the shape is not that of the scan, the values are not integers in range or the suffix is
            another one.
    """
    array = np.asarray(array)
    if array.shape != like.array.shape:
        raise ValueError(
            f"array has shape {array.shape}, expected {like.array.shape} as the scan has; "
            "bring the label map back to the grid of the scan."
        )
    if array.dtype.kind not in "iub":
        raise ValueError(f"array is of dtype {array.dtype}, expected integers; convert it, e.g. to numpy.uint8.")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ValueError(f"array holds values from {lowest} to {highest}, expected labels from 0 to 65535.")
    header = _copied_header(like.header)
    # The scan's window, e.g. -125 to 275 HU, would show every label in the same grey.
    header["cal_min"], header["cal_max"] = 0, highest
    header.set_intent("label")
    _write(Path(path), array.astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16), like.affine, header)


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
                    f"{path} holds no .nii or .nii.gz file, expected at least one; check the folder."
                )
            found.update(inside)
        else:
            _check_file(path)
            found.add(path)
    return sorted(found)


def case_name(path: str | Path) -> str:
    """Name of a file without its folder and without `.nii` or `.nii.gz`."""
    name = Path(path).name
    return name[: len(name) - len(_suffix(name))]


def _suffix(path: str | Path) -> str:
    """The NIfTI suffix of a path in lower case, empty when it has none."""
    return next((suffix for suffix in _SUFFIXES if str(path).lower().endswith(suffix)), "")


def _check_suffix(path: Path) -> None:
    if not _suffix(path):
        raise ValueError(f"{path} is no NIfTI file by its name, expected .nii or .nii.gz; convert or rename it.")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, expected a .nii or .nii.gz file; check the path.")
    _check_suffix(path)
    if not path.is_file():
        raise ValueError(f"{path} is a folder, expected a .nii or .nii.gz file; name a file in it.")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as NIfTI ({' '.join(str(error).split()) or type(error).__name__}), expected a whole "
        f"{_suffix(path)} file; it is damaged, cut short or of another format: copy or export it again."
    )


def _read_image(path: Path) -> nib.Nifti1Image:
    _check_file(path)
    # A compressed file is read to its end, for only there is its checksum: nibabel alone stops at the last voxel it
    # needs and would take flipped bits for anatomy.
    try:
        with gzip.open(path) if _suffix(path) == ".nii.gz" else path.open("rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    # The first field is the header's own length, in either byte order: 348 for NIfTI-1, 540 for NIfTI-2.
    is_nifti2 = 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
    try:
        return (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(data)
    except (OSError, ValueError, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise _damaged(path, error) from error


def _mm_per_unit(header: nib.Nifti1Header) -> float:
    # Read as bits: nibabel's own reading fails on codes that the standard does not know.
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _copied_header(header: nib.Nifti1Header | None) -> nib.Nifti1Header:
    if header is not None:
        return header.copy()
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    return header


def _storable(array: np.ndarray) -> np.ndarray:
    """The array in a type that NIfTI readers know: 64-bit integers are rare in the wild, half floats do not exist."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype in (np.int64, np.uint64):
        if array.size and (array.min() < np.iinfo(np.int32).min or array.max() > np.iinfo(np.int32).max):
            raise ValueError(f"array holds values from {array.min()} to {array.max()}, expected 32-bit integers.")
        return array.astype(np.int32)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"array is of dtype {array.dtype}, expected integers or floats; convert it first.")
    return array


def _write(path: Path, array: np.ndarray, affine: np.ndarray, header: nib.Nifti1Header) -> None:
    _check_suffix(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist, expected a folder to write {path.name} to; create it.")
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
    # nibabel chooses format and compression by the suffix; the leading dot keeps find_volumes from taking it.
    temporary = path.with_name(f".{case_name(path)}.{uuid.uuid4().hex}{_suffix(path)}")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
