"""Data sets of Hugging Face `datasets`: a column with images and one with label maps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import nibabel as nib
import numpy as np
from PIL import Image

from ...model.image_processing_samed import SamedImageProcessor
from ...volumes import InputLimits, Volume
from ...volumes.images import image_array, mask_array
from ..dataset import CaseDataset, RawCase, as_labels, renumber
from ..labels import labels_of_names, resolve_labels
from ..sources import cut_pair, stack_images

__all__ = ["is_saved_dataset", "read_rows"]

_COLUMNS = {
    "image_column": ("image", "images", "img", "scan", "volume", "pixel_values"),
    "label_column": ("label", "labels", "mask", "masks", "annotation", "segmentation", "seg"),
    "case_column": ("case", "case_id", "patient", "patient_id", "subject", "subject_id", "volume_id", "scan_id"),
}
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk


@dataclass(frozen=True)
class _RowSource:
    """Rows of a data set: one scan, or the slices of one."""

    name: str
    table: Any
    rows: tuple[int, ...]
    columns: tuple[str, str]
    num_channels: int
    values: tuple[int, ...]
    tolerance: float

    def read(self, processor: SamedImageProcessor) -> RawCase:
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images, labels = zip(*(self._row(row, num_channels) for row in self.rows), strict=True)
        if not isinstance(images[0], Volume):
            return stack_images(self.name, images, [renumber(self.name, label, self.values) for label in labels])
        if len(images) > 1:
            raise ValueError(f"{self.name} names {len(images)} rows with scans: expected one scan for each case.")
        return cut_pair(self.name, images[0], labels[0], self.values, self.tolerance, processor)

    def _row(self, row: int, num_channels: int) -> tuple[Any, Any]:
        """Image and label of a row: volumes, or slices `(slices[, channels], height, width)`."""
        name = f"{self.name}, row {row}"
        image, label = (_cell(self.table, row, column) for column in self.columns)
        if image is None or label is None:
            raise ValueError(f"{name} lacks its image or its label: fill it in or filter it out.")
        if isinstance(image, nib.spatialimages.SpatialImage):
            return _volume(name, image, self.num_channels), _volume(name, label, 1)
        slices, labels = _image_slices(name, image, num_channels), _label_slices(name, label)
        if (len(slices), *slices.shape[-2:]) != labels.shape:
            raise ValueError(f"{name} has an image of shape {slices.shape} and a label of shape {labels.shape}.")
        return slices, labels

    def files(self) -> tuple[Path, ...]:
        return ()

    def cache_key(self) -> list[Any]:
        return [self.table._fingerprint, list(self.rows), list(self.columns)]


def is_saved_dataset(directory: Path) -> bool:
    """Return whether `save_to_disk` wrote the directory, or it holds Parquet files."""
    saved = any((directory / name).is_file() for name in _SAVED)
    return saved or any(directory.glob("*.parquet")) or any(directory.glob("data/*.parquet"))


def read_rows(
    name: str,
    config: str | None,
    columns: Mapping[str, str | None],
    label_names: Sequence[str] | None,
    tolerance: float,
    cache_dir: str | None,
) -> CaseDataset:
    """Read a data set of `datasets`, saved on disk, in a directory that `datasets` recognises, or on the Hub.

    `columns` are the columns given, by the argument of [`read_data`], which describes the other arguments.
    """
    tables = _load(name, config, cache_dir)
    first = next(iter(tables.values()))
    image, label, case = (_find_column(first, argument, columns[argument], name) for argument in _COLUMNS)
    data = CaseDataset("Hugging Face data set", name, {}, {}, about={"name": Path(name).name})
    data.channel_names, data.is_2d = _find_kind(tables, image)
    named = labels_of_names(label_names) if label_names else None
    labels, data.notes = resolve_labels(named, _label_maps(tables, label), data.is_2d, name)
    data.id2label = labels.id2label
    num_channels = len(data.channel_names)
    for split, table in tables.items():
        rows: dict[str, list[int]] = {}
        for index, found in enumerate(table[case] if case else range(len(table))):
            rows.setdefault(str(found) if case else f"{split}-{index:05d}", []).append(index)
        data.add_cases(
            _SPLITS.get(split, "train"),
            {
                key: _RowSource(key, table, tuple(found), (image, label), num_channels, labels.values, tolerance)
                for key, found in (sorted(rows.items()) if case else rows.items())
            },
        )
    return data


def _load(name: str, config: str | None, cache_dir: str | None) -> dict[str, Any]:
    """Return the tables of the splits that are not empty."""
    datasets.disable_progress_bars()
    try:
        if any((Path(name) / file).is_file() for file in _SAVED):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config, cache_dir=cache_dir)
    except Exception as error:  # Arrow, fsspec, the Hub and datasets raise errors of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"The data set {name!r} can't be loaded ({reason}): expected a Hub id, or a directory written by "
            "save_to_disk or holding Parquet files."
        ) from error
    tables = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    tables = {split: table for split, table in tables.items() if len(table)}
    if not tables:
        raise ValueError(f"The data set {name!r} has no rows: expected images with label maps.")
    return tables


def _cell(table: Any, row: int, column: str) -> Any:
    """The value of one column; an image is decoded if it is of a known format, as Pillow runs programs for others."""
    feature = table.features[column]
    if not isinstance(feature, datasets.Image) or not feature.decode:
        return table.select_columns([column])[row][column]
    stored = table.with_format("arrow")[row].column(column)[0].as_py()
    if stored is None:
        return None
    try:
        file = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
        with Image.open(file, formats=_FORMATS) as image:
            InputLimits.local().check_slices(f"{column} of row {row}", (1, image.height, image.width))
        return feature.decode_example(stored)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{column} of row {row} can't be read ({reason}): expected {', '.join(_FORMATS)}.") from error


def _find_column(table: Any, argument: str, given: str | None, name: str) -> str:
    """Return the column given or one of a usual name; empty if there is no column of cases."""
    usual = _COLUMNS[argument]
    found = given or next((column for column in usual if column in table.column_names), "")
    if found not in table.column_names and (given or argument != "case_column"):
        raise ValueError(
            f"{name} has the columns {', '.join(table.column_names)}: expected {given or ' or '.join(usual[:4])}; give "
            f"--{argument}."
        )
    return found


def _find_kind(tables: dict[str, Any], column: str) -> tuple[tuple[str, ...], bool]:
    """Return the names of the channels, and whether the images are 2-D, from the first rows."""
    is_2d, coloured = False, False
    for table in tables.values():
        for row in range(min(len(table), 16)):
            image = _cell(table, row, column)
            if isinstance(image, Image.Image):
                is_2d = True
                coloured |= image.mode not in ("1", "L", "LA", "I", "I;16", "F")
            elif not isinstance(image, nib.spatialimages.SpatialImage):
                array = np.asarray(image)
                is_2d |= array.dtype.kind in "iu"
                coloured |= array.ndim == 3 and array.shape[-1] == 3
    return (("R", "G", "B") if coloured else ("image",)), is_2d


def _label_maps(tables: dict[str, Any], column: str) -> Iterator[tuple[str, np.ndarray]]:
    for split, table in tables.items():
        for row in range(len(table)):
            label = _cell(table, row, column)
            name = f"{split}, row {row}"
            if isinstance(label, nib.spatialimages.SpatialImage):
                yield name, as_labels(name, _volume(name, label, 1).array)
            else:
                yield name, _label_slices(name, label)


def _volume(name: str, image: Any, num_channels: int) -> Volume:
    try:
        array = np.asanyarray(image.dataobj)
        array = array if array.ndim == 3 or (array.ndim == 4 and num_channels > 1) else array.reshape(array.shape[:3])
        return Volume(array, image.affine)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{name} holds a damaged scan ({' '.join(str(error).split())}): write the row again."
        ) from error


def _image_slices(name: str, image: Any, num_channels: int) -> np.ndarray:
    """`(slices, height, width)`, or `(slices, 3, height, width)` of coloured ones."""
    array = image_array(image, num_channels, name) if isinstance(image, Image.Image) else _numbers(name, image)
    if array.ndim == 3 and num_channels == 3:
        return np.moveaxis(array, -1, 0)[None]
    return array if array.ndim == 3 else array[None]


def _label_slices(name: str, label: Any) -> np.ndarray:
    array = as_labels(name, mask_array(label, name) if isinstance(label, Image.Image) else _numbers(name, label))
    return array if array.ndim == 3 else array[None]


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} holds lists of unequal length: expected an image.") from error
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds values of type {array.dtype}: expected numbers.")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} holds an array of shape {array.shape}: expected (height, width) or with slices first."
        )
    return array
