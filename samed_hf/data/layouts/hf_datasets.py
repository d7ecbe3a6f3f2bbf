"""Data sets of Hugging Face `datasets`: a column with images and one with label maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import nibabel as nib
import numpy as np
from PIL import Image

from ...model.image_processing_samed import SamedImageProcessor
from ...transforms.slicing import cut_slices, slice_spacing
from ...volumes import Volume, reorient, same_grid
from ...volumes.images import image_array, mask_array
from ..dataset import CaseDataset, CaseSource, RawCase, as_labels, renumber
from ..labels import Labels, labels_of_names, labels_of_values, match_label_values

__all__ = ["is_saved_dataset", "read_rows"]

_IMAGE_COLUMNS = ("image", "images", "img", "scan", "volume", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "mask", "masks", "annotation", "segmentation", "seg")
_CASE_COLUMNS = ("case", "case_id", "patient", "patient_id", "subject", "subject_id", "volume_id", "scan_id")
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class RowSource:
    """Rows of a data set: one scan, or the slices of one."""

    name: str
    table: Any
    rows: tuple[int, ...]
    columns: tuple[str, str]
    num_channels: int
    values: tuple[int, ...]
    tolerance: float = 0.1

    def read(self, processor: SamedImageProcessor) -> RawCase:
        """See [`CaseSource`]."""
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images, labels = zip(*(self._row(row, num_channels) for row in self.rows), strict=True)
        if isinstance(images[0], Volume):
            if len(images) > 1:
                raise ValueError(f"{self.name} names {len(images)} rows with scans: expected one scan for each case.")
            return self._scan(images[0], labels[0], processor)
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"The images of {self.name} differ in size: expected one size for each case.")
        image, label = np.concatenate(images), np.concatenate(labels)
        return RawCase(image, renumber(self.name, label, self.values), None)

    def _scan(self, image: Volume, label: Volume, processor: SamedImageProcessor) -> RawCase:
        values = renumber(self.name, as_labels(self.name, label.array), self.values)
        label = reorient(Volume(values, label.affine), image.orientation)
        if differs := same_grid(image, label, self.tolerance):
            raise ValueError(f"{self.name}: image and label are on different grids: {differs}; resample the label.")
        label = Volume(label.array, image.affine)
        return RawCase(cut_slices(image, processor), cut_slices(label, processor), slice_spacing(image, processor))

    def _row(self, row: int, num_channels: int) -> tuple[Any, Any]:
        """Image and label of a row: volumes, or slices `(slices[, channels], height, width)`."""
        name = f"{self.name}, row {row}"
        content = self.table[row]
        image, label = (content[column] for column in self.columns)
        if image is None or label is None:
            raise ValueError(f"{name} lacks its image or its label: fill it in or filter it out.")
        if isinstance(image, nib.spatialimages.SpatialImage):
            return _volume(name, image, self.num_channels), _volume(name, label, 1)
        slices, labels = _image_slices(name, image, num_channels), _label_slices(name, label)
        if (len(slices), *slices.shape[-2:]) != labels.shape:
            raise ValueError(f"{name} has an image of shape {slices.shape} and a label of shape {labels.shape}.")
        return slices, labels

    def files(self) -> tuple[Path, ...]:
        """See [`CaseSource`]: rows have no files of their own."""
        return ()

    def cache_key(self) -> list[Any]:
        """See [`CaseSource`]."""
        return [self.table._fingerprint, list(self.rows), list(self.columns)]


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote the directory, or it holds Parquet files."""
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return saved or any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet"))


def read_rows(
    name: str | Path,
    *,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    case_column: str | None = None,
    label_names: Sequence[str] | None = None,
    cache_dir: str | None = None,
    tolerance: float = 0.1,
) -> CaseDataset:
    """Read a data set of `datasets`, saved on disk, in a directory that `datasets` recognises, or on the Hub.

    Args:
        name: a directory or a Hub id.
        config: configuration of the data set.
        image_column, label_column: the columns with images and label maps; found by their names.
        case_column: the column with the case of each row, whose slices are in order; found by its name. Without one
            each row is a case.
        label_names: names of the labels, numbered from 0; without them the labels are named after their values.
        cache_dir: where `datasets` keeps what it downloads.
        tolerance: see [`ScanSource`].

    Raises:
        ValueError: it can't be loaded, or has no such columns.
    """
    tables = _load(name, config, cache_dir)
    data = CaseDataset("Hugging Face data set", str(name), {}, {}, about={"name": Path(str(name)).name})
    first = next(iter(tables.values()))
    columns = (
        _column(first, image_column, _IMAGE_COLUMNS, "image_column", name),
        _column(first, label_column, _LABEL_COLUMNS, "label_column", name),
    )
    case_column = case_column or next((column for column in _CASE_COLUMNS if column in first.column_names), None)
    if label_names:
        labels = labels_of_names(label_names)
    else:
        labels = labels_of_values(_label_maps(tables, columns[1]), name)
        data.notes.append(f"no label_names given: called after the values {', '.join(map(str, labels.values))}")
    num_channels, data.is_2d = _kind(tables, columns[0])
    if label_names and data.is_2d:
        labels = match_label_values(labels, _label_maps(tables, columns[1]), name)
    data.id2label = labels.id2label
    data.channel_names = ("R", "G", "B") if num_channels == 3 else ("image",)
    for split, table in tables.items():
        sources = _cases(split, table, columns, case_column, num_channels, labels, tolerance)
        if shared := sorted(set(sources) & set(data.sources)):
            raise ValueError(f"{name} has the case {shared[0]} in two splits: expected each case in one of them.")
        data.sources |= sources
        getattr(data, _SPLITS.get(split, "train")).extend(sources)
    return data


def _load(name: str | Path, config: str | None, cache_dir: str | None) -> dict[str, Any]:
    datasets.disable_progress_bars()
    try:
        if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(name))
        else:
            loaded = datasets.load_dataset(str(name), config, cache_dir=cache_dir)
    except Exception as error:  # Arrow, fsspec, the Hub and datasets raise errors of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"The data set {str(name)!r} can't be loaded ({reason}): expected a Hub id, or a directory written by "
            "save_to_disk or holding Parquet files."
        ) from error
    tables = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    tables = {split: table for split, table in tables.items() if len(table)}
    if not tables:
        raise ValueError(f"The data set {str(name)!r} has no rows: expected images with label maps.")
    return tables


def _column(table: Any, given: str | None, usual: Sequence[str], flag: str, name: object) -> str:
    found = given or next((column for column in usual if column in table.column_names), "")
    if found not in table.column_names:
        raise ValueError(
            f"{name} has the columns {', '.join(table.column_names)}: expected {given or ' or '.join(usual[:4])}; give "
            f"--{flag}."
        )
    return found


def _cases(
    split: str,
    table: Any,
    columns: tuple[str, str],
    case_column: str | None,
    num_channels: int,
    labels: Labels,
    tolerance: float,
) -> dict[str, CaseSource]:
    if case_column is None:
        rows = {f"{split}-{index:05d}": [index] for index in range(len(table))}
    else:
        rows = {}
        for index, case in enumerate(table[case_column]):
            rows.setdefault(str(case), []).append(index)
        rows = dict(sorted(rows.items()))
    return {
        case: RowSource(case, table, tuple(found), columns, num_channels, labels.values, tolerance)
        for case, found in rows.items()
    }


def _kind(tables: dict[str, Any], column: str) -> tuple[int, bool]:
    """Return the number of channels, and whether the images are 2-D, from the first rows."""
    pictures, coloured = False, False
    for table in tables.values():
        for row in range(min(len(table), 16)):
            image = table[row][column]
            if isinstance(image, Image.Image):
                pictures = True
                coloured |= image.mode not in ("1", "L", "LA", "I", "I;16", "F")
            elif not isinstance(image, nib.spatialimages.SpatialImage):
                array = np.asarray(image)
                pictures |= array.dtype.kind in "iu"
                coloured |= array.ndim == 3 and array.shape[-1] == 3
    return (3 if coloured else 1), pictures


def _label_maps(tables: dict[str, Any], column: str) -> Iterator[np.ndarray]:
    for split, table in tables.items():
        for row in range(len(table)):
            label = table[row][column]
            name = f"{split}, row {row}"
            if isinstance(label, nib.spatialimages.SpatialImage):
                yield as_labels(name, _volume(name, label, 1).array)
            else:
                yield _label_slices(name, label)


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
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} holds an image of shape {array.shape}: expected (height, width) or with slices first."
        )
    return array if array.ndim == 3 else array[None]


def _label_slices(name: str, label: Any) -> np.ndarray:
    array = as_labels(name, mask_array(label, name) if isinstance(label, Image.Image) else _numbers(name, label))
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} holds a label of shape {array.shape}: expected (height, width) or with slices first.")
    return array if array.ndim == 3 else array[None]


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} holds lists of unequal length: expected an image.") from error
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds values of type {array.dtype}: expected numbers.")
    return array
