"""Data sets of Hugging Face `datasets`: a column with images and one with label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.data_files import SPLIT_KEYWORDS
from PIL import Image

from ...model.image_processing_samed import SamedImageProcessor
from ...volumes import Volume
from ...volumes.masks import mask_pixels
from ..dataset import CaseDataset, RawCase, as_labels, renumber
from ..labels import Labels, find_labels_file, labels_of_names, resolve_labels
from ..objects import category_numbers, draw_objects, list_objects
from ..sources import cut_pair, stack_images
from .hf_columns import find_column, find_objects, image_slices, read_cell

__all__ = ["is_saved_dataset", "read_rows"]

_SPLITS = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk
_METADATA = tuple(f"metadata.{suffix}" for suffix in ("jsonl", "csv", "parquet"))  # of `imagefolder`


@dataclass(frozen=True)
class _Rows:
    """The rows of a split: how their images and label maps are decoded."""

    split: str
    table: Any
    image: str  # its columns
    label: str
    as_colors: bool = False  # whether the labels are colours
    numbers: Mapping[Any, int] = field(default_factory=dict)  # of the categories of objects

    def name(self, row: int, column: str) -> str:
        return f"{self.split}, {column} of row {row}"

    def read_image(self, row: int) -> Any:
        """A `Volume`, a Pillow image or an array."""
        return self.required(row, self.image)

    def read_label(self, row: int, size: tuple[int, int] | None = None) -> Any:
        """A `Volume`, or slices `(slices, height, width)`; objects are drawn in an image of `size`."""
        name, label = self.name(row, self.label), self.required(row, self.label)
        if self.numbers:
            return draw_objects(list_objects(label, name), self.numbers, size or self.read_size(row), name)[0][None]
        if isinstance(label, Volume):
            return label
        if isinstance(label, Image.Image):
            if label.format == "JPEG":
                raise ValueError(f"{name} is a JPEG, whose compression changes values: save label maps as PNG.")
            label = mask_pixels(label, name, as_colors=self.as_colors)
            if label.dtype == np.uint32 and not self.as_colors:
                raise ValueError(f"{name} is coloured, the first label maps are grey: expected all of one kind.")
        label = label if label.dtype == np.uint32 else as_labels(name, label)
        return label if label.ndim == 3 else label[None]

    def read_size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        image = self.read_image(row)
        if isinstance(image, Image.Image):
            return image.height, image.width
        if isinstance(image, Volume):
            raise ValueError(f"{self.name(row, self.image)} is a scan: expected an image, in which objects are drawn.")
        return image.shape[:2] if image.ndim == 3 and image.shape[-1] == 3 else image.shape[-2:]

    def required(self, row: int, column: str) -> Any:
        value = read_cell(self.table, row, column, self.name(row, column))
        if value is None:
            raise ValueError(f"{self.name(row, column)} is empty: fill it in or filter the row out.")
        return value


@dataclass(frozen=True)
class _RowSource:
    """Rows of a data set: one scan, or the slices of one."""

    case: str
    rows: _Rows
    indices: tuple[int, ...]
    num_channels: int
    values: tuple[int, ...]
    tolerance: float

    def read(self, processor: SamedImageProcessor) -> RawCase:
        # A model of grey images sees colours as grey, here as in prediction.
        num_channels = processor.num_channels if processor.num_channels in (1, 3) else self.num_channels
        images, labels = zip(*(self._row(row, num_channels) for row in self.indices), strict=True)
        if not isinstance(images[0], Volume):
            return stack_images(self.case, images, [renumber(self.case, label, self.values) for label in labels])
        if len(images) > 1:
            raise ValueError(f"{self.case} names {len(images)} rows with scans: expected one scan for each case.")
        return cut_pair(self.case, images[0], labels[0], self.values, self.tolerance, processor)

    def _row(self, row: int, num_channels: int) -> tuple[Any, Any]:
        """Image and label of a row: volumes, or slices `(slices[, channels], height, width)`."""
        name, image = f"{self.case}, row {row}", self.rows.read_image(row)
        if isinstance(image, Volume):
            return image, self.rows.read_label(row)
        slices = image_slices(name, image, num_channels)
        labels = self.rows.read_label(row, slices.shape[-2:])
        if isinstance(labels, Volume) or (len(slices), *slices.shape[-2:]) != labels.shape:
            shape = labels.grid if isinstance(labels, Volume) else labels.shape
            raise ValueError(f"{name} has an image of shape {slices.shape} and a label of shape {shape}.")
        return slices, labels

    def files(self) -> tuple[Path, ...]:
        return ()

    def cache_key(self) -> list[Any]:
        rows = self.rows
        numbers = [[str(category), number] for category, number in rows.numbers.items()]
        return [rows.table._fingerprint, list(self.indices), rows.image, rows.label, rows.as_colors, numbers]


def is_saved_dataset(directory: Path) -> bool:
    """Return whether `save_to_disk` wrote the directory, or it holds Parquet files or metadata of `imagefolder`."""
    saved = any((directory / name).is_file() for name in (*_SAVED, *_METADATA))
    return saved or any(
        True for pattern in ("*.parquet", "data/*.parquet", "*/metadata.*") for _ in directory.glob(pattern)
    )


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
    data = CaseDataset("Hugging Face data set", name, {}, {}, about={"name": Path(name).name})
    tables = _known_splits(_load(name, config, cache_dir), name, data.notes)
    first = next(iter(tables.values()))
    image, label, case = (find_column(first, argument, columns[argument], name) for argument in columns)
    order = find_column(first, "slice_column", None, name) if case else ""
    splits = [_Rows(split, table, image, label) for split, table in tables.items()]
    _describe(data, splits)
    labels, splits = _find_labels(data, splits, label_names, name)
    data.id2label = labels.id2label
    if case:
        in_order = f"the column {order}" if order else "the rows"
        data.notes.append(f"rows of one {case} are the slices of one case, in the order of {in_order}")
    for rows in splits:
        cases: dict[str, list[int]] = {}
        for index, found in enumerate(rows.table[case] if case else range(len(rows.table))):
            cases.setdefault(str(found) if case else f"{rows.split}-{index:05d}", []).append(index)
        if order:
            numbers = list(rows.table[order])
            cases = {key: _in_order(found, numbers, f"{key}, column {order},") for key, found in cases.items()}
        data.add_cases(
            _SPLITS[rows.split.lower()],
            {
                key: _RowSource(key, rows, tuple(found), len(data.channel_names), labels.values, tolerance)
                for key, found in (sorted(cases.items()) if case else cases.items())
            },
        )
    return data


def _known_splits(tables: dict[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    """The splits that `datasets` has a word for; others are left out with a note."""
    known = {split: table for split, table in tables.items() if split.lower() in _SPLITS}
    expected = f"expected {', '.join(_SPLITS)}"
    if not known:
        raise ValueError(f"{name} has the splits {', '.join(tables)}: {expected}; rename them.")
    for split, table in tables.items():
        if split not in known:
            notes.append(f"the split {split} ({len(table)} rows) is left out: {expected}; rename it to use it")
        elif _SPLITS[split.lower()] != split:
            notes.append(f"the split {split} is used for {_SPLITS[split.lower()]}")
    # `datasets` itself skips directories of other names beside those of splits, and makes one split of them otherwise.
    directories = sorted({path.parent.name for path in Path(name).glob("*/metadata.*")} - {"data"})
    if unknown := [one for one in directories if one.lower() not in _SPLITS]:
        what = "left out" if len(unknown) < len(directories) else "taken for training"
        notes.append(f"directories of no known split, {what}: {', '.join(unknown)}; {expected}")
    return known


def _describe(data: CaseDataset, splits: Sequence[_Rows]) -> None:
    """Set the channels, whether the images are 2-D, and their range, by the first rows."""
    coloured, deep = False, False
    for rows in splits:
        for row in range(min(len(rows.table), 16)):
            image = rows.read_image(row)
            if isinstance(image, Image.Image):
                data.is_2d = True
                coloured |= image.mode not in _GREY
                deep |= image.mode in ("I", "I;16", "I;16B", "F")
            elif not isinstance(image, Volume):
                data.is_sliced = True
                data.is_2d |= image.dtype.kind in "iu"
                coloured |= image.ndim == 3 and image.shape[-1] == 3
                deep |= image.dtype.kind in "iu" and image.dtype != np.uint8
    data.channel_names = ("R", "G", "B") if coloured else ("image",)
    if deep:
        arrays = (np.asarray(rows.read_image(row)) for rows in splits for row in range(len(rows.table)))
        data.set_intensity_range([(float(one.min()), float(one.max())) for one in arrays if one.dtype != np.uint8])


def _find_labels(
    data: CaseDataset, splits: list[_Rows], label_names: Sequence[str] | None, name: str
) -> tuple[Labels, list[_Rows]]:
    """The labels, and the splits that read them as colours or draw them as objects where needed."""
    named = labels_of_names(label_names) if label_names else None
    if named is None and Path(name).is_dir():
        named = find_labels_file(Path(name))
    if (fields := find_objects(splits[0].table.features[splits[0].label])) is not None:
        return _find_objects(data, splits, fields, named)
    firsts = ((rows, row) for rows in splits for row in range(min(len(rows.table), 16)))
    as_colors = (named is not None and not named.values) or any(_is_colored(rows, row) for rows, row in firsts)
    splits = [replace(rows, as_colors=as_colors) for rows in splits]
    labels, notes = resolve_labels(named, _label_maps(splits), data.is_2d, name, as_colors=as_colors)
    data.notes += notes
    return labels, splits


def _find_objects(
    data: CaseDataset, splits: list[_Rows], fields: Mapping[str, Any], named: Labels | None
) -> tuple[Labels, list[_Rows]]:
    """Labels of categories of objects; rows in which objects of several labels overlap are noted."""
    used, overlapping = set(), 0
    listed = [
        (rows, row, list_objects(rows.required(row, rows.label), rows.name(row, rows.label)))
        for rows in splits
        for row in range(len(rows.table))
    ]
    used = {category for _, _, objects in listed for category, _ in objects}
    categories = category_numbers(fields, used)
    if unknown := used - set(categories):
        raise ValueError(f"{data.root} has objects of the category {unknown.pop()}, which its features don't name.")
    numbers = {category: number for category, (number, _) in categories.items()}
    labels = named or labels_of_names([name for number, name in sorted(categories.values()) if number])
    if len(labels.id2label) <= max(numbers.values(), default=0):
        raise ValueError(f"{data.root} has {max(numbers.values())} categories: expected a name for each of them.")
    for rows, row, objects in listed:
        overlapping += draw_objects(objects, numbers, rows.read_size(row), rows.name(row, rows.label))[1] > 0
    if overlapping:
        data.notes.append(f"objects of different labels overlap in {overlapping} rows: the last of them counts")
    return labels, [replace(rows, numbers=numbers) for rows in splits]


def _is_colored(rows: _Rows, row: int) -> bool:
    label = rows.required(row, rows.label)
    return isinstance(label, Image.Image) and mask_pixels(label, rows.name(row, rows.label)).dtype == np.uint32


def _label_maps(splits: Sequence[_Rows]) -> Iterator[tuple[str, np.ndarray]]:
    for rows in splits:
        for row in range(len(rows.table)):
            label, name = rows.read_label(row), rows.name(row, rows.label)
            yield name, as_labels(name, label.array) if isinstance(label, Volume) else label


def _in_order(rows: list[int], numbers: Sequence[Any], name: str) -> list[int]:
    """The rows of a case in the order of their slices' numbers, each of which is there once."""
    try:
        by_number = {float(numbers[row]): row for row in rows}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has a row without a number ({error}): expected the number of each slice.") from error
    if len(by_number) < len(rows):
        raise ValueError(
            f"{name} has {len(by_number)} numbers in {len(rows)} rows: expected each once; --case_column chooses cases."
        )
    return [by_number[number] for number in sorted(by_number)]


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
