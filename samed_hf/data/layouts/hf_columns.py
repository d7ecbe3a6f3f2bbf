"""Columns of Hugging Face `datasets`: which hold images and label maps, and the decoding of their cells."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ...utils.text import one_line
from ...volumes import InputLimits, Volume, read_volume
from ...volumes.images import image_array

__all__ = ["find_column", "find_objects", "image_slices", "read_cell"]

_USUAL = {
    "image_column": ("image", "images", "img", "scan", "volume", "pixel_values", "input"),
    "label_column": (
        *("label", "labels", "mask", "masks", "annotation", "segmentation", "seg", "segmentation_mask", "mask_image"),
        *("label_map", "gt", "ground_truth", "target", "objects", "annotations"),
    ),
    "case_column": ("case", "case_id", "patient", "patient_id", "subject", "subject_id", "volume_id", "scan_id"),
    "slice_column": ("slice", "slice_id", "slice_index", "slice_idx", "slice_number"),
}
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")


def find_column(table: Any, argument: str, given: str | None, name: str) -> str:
    """Return the column given or the one of a usual name; empty if there is none of cases or of slices' numbers."""
    usual, is_optional = _USUAL[argument], argument in ("case_column", "slice_column")
    fits = [one for one in usual if one in table.column_names and (is_optional or _fits(table.features[one], argument))]
    if len(fits) > 1 and not given and not is_optional:
        raise ValueError(f"{name} has several such columns, {' and '.join(fits)}: choose with --{argument}.")
    found = given or next(iter(fits), "")
    if found not in table.column_names and (given or not is_optional):
        raise ValueError(
            f"{name} has the columns {', '.join(table.column_names)}: expected {given or ' or '.join(usual[:4])}; give "
            f"--{argument}."
        )
    if found and not is_optional and not _fits(table.features[found], argument):
        raise ValueError(
            f"{name} has {table.features[found]} in its column {found}: expected images, scans or arrays; a column of "
            "file names in metadata.jsonl has to be called mask_file_name."
        )
    return found


def find_objects(feature: Any) -> dict[str, Any] | None:
    """The fields of a column that lists objects with their outlines, as in COCO; `None` of another column."""
    while (inner := _inner(feature)) is not None:
        feature = inner
    is_outlined = isinstance(feature, dict) and any(str(key).startswith("segment") for key in feature)
    return dict(feature) if is_outlined else None


def _value_type(feature: Any) -> str:
    """The type of the numbers in a column of arrays or nested lists, e.g. "uint8"; empty of other columns."""
    depth = 2 if hasattr(feature, "shape") else 0
    while (inner := _inner(feature)) is not None:
        feature, depth = inner, depth + 1
    dtype = str(getattr(feature, "dtype", ""))
    is_number = dtype.startswith(("int", "uint", "float", "bool"))
    return dtype if depth >= 2 and is_number else ""


def read_cell(table: Any, row: int, column: str, name: str) -> Any:
    """The value of a cell, which messages call `name`: an image, a `Volume`, an array of the column's type, or objects.

    Images and scans are decoded only if they are of a known format, as Pillow runs programs for others, and within
    `InputLimits.local()`.
    """
    feature = table.features[column]
    if not isinstance(feature, datasets.Image | datasets.Nifti) or not feature.decode:
        value = table.select_columns([column])[row][column]
        if isinstance(value, Image.Image) or value is None or find_objects(feature) is not None:
            return value
        return _numbers(name, value, _value_type(feature))
    stored = table.with_format("arrow")[row].column(column)[0].as_py()
    if stored is None:
        return None
    return _image(feature, stored, name) if isinstance(feature, datasets.Image) else _scan(stored, name)


def image_slices(name: str, image: Any, num_channels: int) -> np.ndarray:
    """`(slices, height, width)`, or `(slices, 3, height, width)` of coloured ones."""
    array = image_array(image, num_channels, name) if isinstance(image, Image.Image) else image
    if array.ndim == 3 and num_channels == 3:
        return np.moveaxis(array, -1, 0)[None]
    return array if array.ndim == 3 else array[None]


def _image(feature: Any, stored: dict[str, Any], name: str) -> Image.Image:
    try:
        file = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
        with Image.open(file, formats=_FORMATS) as image:
            InputLimits.local().check_slices(name, (1, image.height, image.width))
            form = image.format
        decoded = feature.decode_example(stored)
        decoded.format = form
        return decoded
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} can't be read ({one_line(error)}): expected {', '.join(_FORMATS)}.") from error


def _scan(stored: dict[str, Any], name: str) -> Volume:
    """A NIfTI scan, read as a file, which compares its header with the limits before memory is taken."""
    if stored["bytes"] is None:
        return read_volume(stored["path"])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / ("scan.nii.gz" if stored["bytes"].startswith(b"\x1f\x8b") else "scan.nii")
        path.write_bytes(stored["bytes"])
        try:
            return replace(read_volume(path), path=None)
        except ValueError as error:
            raise type(error)(str(error).replace(str(path), name)) from error


def _numbers(name: str, value: Any, dtype: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=dtype or None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} holds no numbers, or lists of unequal length: expected an image.") from error
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds values of type {array.dtype}: expected numbers.")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} holds an array of shape {array.shape}: expected (height, width) or with slices first."
        )
    InputLimits.local().check_slices(name, array.shape if array.ndim == 3 else (1, *array.shape))
    return array


def _fits(feature: Any, argument: str) -> bool:
    is_image = isinstance(feature, datasets.Image | datasets.Nifti) or _value_type(feature) != ""
    return is_image or (argument == "label_column" and find_objects(feature) is not None)


def _inner(feature: Any) -> Any:
    """What a list holds, in the three spellings of `datasets`."""
    if isinstance(feature, list) and feature:
        return feature[0]
    return getattr(feature, "feature", None)
