"""Checks of image files, and of arrays that are read from or written to them, in all formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil

from ..utils.text import join_or, printable
from .geometry import Volume
from .registry import FORMATS, format_of

__all__ = [
    "DEFLATE_RATIO",
    "NO_THICKNESS",
    "NotFiniteError",
    "check_file",
    "check_finite",
    "check_labels",
    "check_memory",
    "check_parent",
    "damaged_file_error",
    "make_volume",
    "storable",
]

NO_THICKNESS = "one slice without a thickness: ml assume {:.4g} mm"
DEFLATE_RATIO = 1032  # highest compression ratio of gzip and zlib, which zeros reach


def damaged_file_error(path: Path, reason: str) -> ValueError:
    """Make the error for a file that cannot be read as the format of its suffix, for a reason."""
    form = format_of(path)
    name = "an image" if form is None or form.kind == "image" else form.name
    return ValueError(
        f"{printable(path)} cannot be read as {name} ({reason}), expected a complete file; "
        "it is damaged, cut short or of another format: copy or export it again."
    )


def check_file(path: Path, kind: str) -> None:
    """Check that a file exists and has a suffix of a kind of formats, e.g. "nifti"."""
    expected = join_or([suffix for form in FORMATS if form.kind == kind for suffix in form.suffixes])
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)} does not exist, expected a {expected} file.")
    form = format_of(path)
    if form is None or form.kind != kind:
        raise ValueError(f"{printable(path)} has another suffix than {expected}; convert or rename it.")
    if not path.is_file():
        raise ValueError(f"{printable(path)} is a directory, expected a {expected} file; name a file in it.")


def check_parent(path: Path) -> None:
    """Check that the directory of a file to write exists."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{printable(path.parent)} does not exist, expected a directory to write {printable(path.name)} to; "
            "create it."
        )


def check_memory(path: Path, num_bytes: int) -> None:
    """Refuse a volume of more bytes than are free, before they are allocated."""
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise ValueError(
            f"{printable(path)} holds a volume of {num_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "crop or resample it."
        )


class NotFiniteError(ValueError):
    """An image contains NaN or infinity, and is intact otherwise."""


def check_finite(path: Path, array: np.ndarray) -> None:
    """Refuse NaN and infinity by a `NotFiniteError`."""
    if array.dtype.kind != "f":
        return
    # Slice by slice, as the mask of a whole scan would take a quarter of its memory.
    wrong = sum(int(np.count_nonzero(~np.isfinite(part))) for part in array.T)
    if wrong:
        raise NotFiniteError(
            f"{printable(path)} holds NaN or infinity in {wrong} of {array.size} voxels, "
            "expected finite values; replace them, e.g. with numpy.nan_to_num."
        )


def make_volume(
    array: np.ndarray, affine: np.ndarray, header: object, path: Path, notes: tuple[str, ...] = ()
) -> Volume:
    """Make a [`Volume`] read from `path`; the error for an invalid geometry names the path."""
    try:
        return Volume(array, affine, header, path, notes=notes)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None


def check_labels(array: np.ndarray, like: Volume) -> np.ndarray:
    """Convert labels `(x, y, z[, frames])` on the grid of `like` to uint8 where their values fit, else to uint16."""
    array = np.asarray(array)
    if array.shape[:3] != like.grid or array.ndim > 4:
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
    """Convert an array to a type that common readers know: many lack 64-bit integers, all lack float16."""
    if array.dtype in (np.int64, np.uint64):
        if array.size and (array.min() < np.iinfo(np.int32).min or array.max() > np.iinfo(np.int32).max):
            raise ValueError(f"array holds values from {array.min()} to {array.max()}, expected 32-bit integers.")
        return array.astype(np.int32)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"array is of dtype {array.dtype}, expected integers or floats; convert it first.")
    return array.astype({np.bool_: np.uint8, np.float16: np.float32}.get(array.dtype.type, array.dtype), copy=False)
