"""What the readers and writers of all formats share: their checks, and files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from ..utils.text import printable
from .geometry import Volume

__all__ = [
    "ITK_SUFFIXES",
    "NIFTI_SUFFIXES",
    "PICTURE_SUFFIXES",
    "NotFiniteError",
    "arranged_shape",
    "check_file",
    "check_finite",
    "check_labels",
    "check_memory",
    "check_parent",
    "damaged",
    "made_volume",
    "storable",
    "suppress_stderr",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_stderr_lock = threading.Lock()


def damaged(path: Path, form: str, reason: str) -> ValueError:
    """The error for a file that isn't what its name says.

    Args:
        path: the file.
        form: the format as people call it, e.g. "NIfTI".
        reason: what is wrong with it.
    """
    return ValueError(
        f"{printable(path)} cannot be read as {form} ({reason}), expected a whole file; "
        "it is damaged, cut short or of another format: copy or export it again."
    )


def check_file(path: Path, suffixes: tuple[str, ...], form: str) -> None:
    """Check that a file is there and named as its format asks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is another one, or it is a folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)} does not exist, expected a {' or '.join(suffixes)} file.")
    if not path.name.lower().endswith(suffixes):
        raise ValueError(
            f"{printable(path)} is no {form} file by its name, expected {' or '.join(suffixes)}; convert or rename it."
        )
    if not path.is_file():
        raise ValueError(f"{printable(path)} is a folder, expected a {' or '.join(suffixes)} file; name a file in it.")


def check_parent(path: Path) -> None:
    """Check that the folder of a file to write is there.

    Raises:
        FileNotFoundError: If it is not.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{printable(path.parent)} does not exist, expected a folder to write {printable(path.name)} to; create it."
        )


def check_memory(path: Path, num_bytes: int) -> None:
    """Refuse a volume that the machine cannot hold, before it is asked to.

    Raises:
        ValueError: If less memory is free than the volume takes.
    """
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise ValueError(
            f"{printable(path)} holds a volume of {num_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "crop or resample it."
        )


class NotFiniteError(ValueError):
    """An image holds NaN or infinity, and is whole otherwise."""


def check_finite(path: Path, array: np.ndarray) -> None:
    """Refuse NaN and infinity.

    Raises:
        NotFiniteError: If one of the values isn't finite.
    """
    if array.dtype.kind != "f":
        return
    # Part by part: the mask of a whole scan would take a quarter of its memory.
    wrong = sum(int(np.count_nonzero(~np.isfinite(part))) for part in (array.T if array.ndim else array))
    if wrong:
        raise NotFiniteError(
            f"{printable(path)} holds NaN or infinity in {wrong} of {array.size} voxels, "
            "expected finite values; replace them, e.g. with numpy.nan_to_num."
        )


def arranged_shape(path: Path, shape: tuple[int, ...], num_channels: int) -> tuple[int, ...]:
    """The shape that a file's image gets as a volume.

    Args:
        path: the file, for the message.
        shape: `(x, y, z, ...)` as the file says; the axes after the third count frames or channels.
        num_channels: images wanted on the grid.

    Returns:
        `(x, y, z)`, or `(x, y, z, num_channels)` for more than one channel.

    Raises:
        ValueError: If it has fewer than three axes, is empty, or holds another number of images.
    """
    frames = [length for length in shape[3:] if length != 1]
    if len(shape) >= 3 and min(shape) > 0 and frames == ([num_channels] if num_channels > 1 else []):
        return shape[:3] if num_channels == 1 else (*shape[:3], num_channels)
    if num_channels == 1:
        expected = "one 3-D volume; save the frame you want by itself"
    else:
        expected = (
            f"{num_channels} channels on its last axis; save them so, or each in a file of its own: "
            "case_0000, case_0001 and so on"
        )
    raise ValueError(f"{printable(path)} holds an image of shape {shape}, expected {expected}.")


def made_volume(array: np.ndarray, affine: np.ndarray, header: object, path: Path) -> Volume:
    """A [`Volume`] read from `path`, which the message about a broken geometry names."""
    try:
        return Volume(array, affine, header, path)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None


def check_labels(array: np.ndarray, like: Volume) -> np.ndarray:
    """A label map as files store it: uint8 where its values fit, else uint16.

    Args:
        array: Integer label map of shape `(x, y, z)`, values in [0, 65535].
        like: The scan on whose grid it is.

    Raises:
        ValueError: If the shape is not that of the scan, or the values are not integers in range.
    """
    array = np.asarray(array)
    if array.shape != like.grid:
        raise ValueError(
            f"array has shape {array.shape}, expected {like.grid} as the scan has; "
            "bring the label map back to the grid of the scan."
        )
    if array.dtype.kind not in "iub":
        raise ValueError(f"array is of dtype {array.dtype}, expected integers; convert it, e.g. to numpy.uint8.")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ValueError(f"array holds values from {lowest} to {highest}, expected labels from 0 to 65535.")
    return array.astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16, copy=False)


def storable(array: np.ndarray) -> np.ndarray:
    """The array in a type that readers know: 64-bit integers are rare in the wild, half floats do not exist.

    Raises:
        ValueError: If its values fit none.
    """
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


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Keep libraries of C and C++ from explaining themselves on the process' stderr."""
    with _stderr_lock:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
